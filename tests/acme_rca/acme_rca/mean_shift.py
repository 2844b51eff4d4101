"""Mean shift: an example."""

from __future__ import annotations

import numpy as np

from acme_rca.shift import shift
from tasks.rca.features.deviation import require_windows
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(name="mean_shift", family="metric", needs={"metrics"}, paper=Paper("An example", "RCArena tests", 2026))
def mean_shift(view: CaseView, rng: np.random.Generator, *, floor: float = 0.0) -> Ranking:
    """Metrics by how far their mean moves, as a share of their range.

    Ranks metrics. Inputs: metrics, inject time. Parameters: ``floor``, the least shift. Complexity: O(columns x rows).
    Randomness: none. Source: this file. Deviations: none.
    """
    normal, abnormal = view.split()
    require_windows(normal, abnormal)
    extent = view.metrics.max() - view.metrics.min()
    return Ranking.of_metrics((shift(normal, abnormal) / extent).where(extent > 0, 0.0).clip(lower=floor))
