"""The n-sigma rule."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import Direction, change_scores
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="nsigma",
    family="metric",
    needs={"metrics"},
    paper=Paper(
        "Causal Inference-Based Root Cause Analysis for Online Service Systems with Intervention Recognition",
        "KDD",
        2022,
    ),
)
def nsigma(view: CaseView, rng: np.random.Generator, *, direction: Direction = "both") -> Ranking:
    """Metrics by their largest distance from the normal mean, in normal standard deviations.

    Ranks metrics; a service scores as its worst one. Inputs: metrics, inject time. Parameters: ``direction`` (``both``:
    |z| as in the paper; ``up``: only rises, as the code behind arXiv 2603.02057 ran it). Complexity: O(columns x rows).
    Randomness: none. Source: the n-sigma baseline of Li et al. (CIRCA), KDD 2022.
    Deviations: a column that is constant in one window stays in the race (see :mod:`tasks.rca.features.deviation`); NaN
    are left out rather than filled.
    """
    normal, abnormal = view.split()
    return Ranking.of_metrics(change_scores(normal, abnormal, centre="mean", direction=direction))
