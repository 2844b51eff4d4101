"""BARO's RobustScorer."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import Direction, change_scores
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="baro",
    family="metric",
    needs={"metrics"},
    paper=Paper(
        "BARO: Robust Root Cause Analysis for Microservices via Multivariate Bayesian Online Change Point Detection",
        "FSE",
        2024,
    ),
)
def baro(view: CaseView, rng: np.random.Generator, *, direction: Direction = "both") -> Ranking:
    """Metrics by their largest distance from the normal median, in normal interquartile ranges.

    Ranks metrics; a service scores as its worst one. Inputs: metrics, inject time. Parameters: ``direction`` (``both``:
    rises and falls; ``up``: only rises, as the authors' code and arXiv 2603.02057 ran it). Complexity: O(columns x rows
    log rows). Randomness: none. Source: Pham, Ha, Zhang, FSE 2024 (RobustScorer; its change-point detector is the
    campaign parameter ``score.inject_time``).
    Deviations: where the interquartile range is 0 the spread comes from the standard deviation, and a column that never
    moved has a scale-free score (see :mod:`tasks.rca.features.deviation`), so units never decide; NaN are left out.
    """
    normal, abnormal = view.split()
    return Ranking.of_metrics(change_scores(normal, abnormal, centre="median", direction=direction))
