"""The chance line as a method."""

from __future__ import annotations

import numpy as np

from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="random",
    family="metric",
    needs=set(),
    seeded=True,
    reference=True,
    paper=Paper("RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems", "WWW Companion", 2025),
)
def uniform_random(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Services in uniformly random order: what a method must beat.

    Ranks services. Inputs: the candidates only. Parameters: none. Complexity: O(services). Randomness: one permutation.
    Source: the ``dummy`` baseline of RCAEval and of arXiv 2603.02057.
    Deviation: permutes services, not metric columns, so a service with many metrics is no likelier to lead; seeded.
    """
    return Ranking.of_order(view.services[i] for i in rng.permutation(len(view.services)))
