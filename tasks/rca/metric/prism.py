"""PRISM: a root cause shows inside and outside, a victim only outside."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import Direction, change_scores
from tasks.rca.features.golden_signals import golden_signal
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="prism",
    family="metric",
    needs={"metrics"},
    paper=Paper("Graph-Free Root Cause Analysis", "arXiv 2601.21359", 2026),
    beyond=True,
)
def prism(view: CaseView, rng: np.random.Generator, *, direction: Direction = "both") -> Ranking:
    """Services by the smaller of how far their internal and their external metrics stray from the normal median.

    Described: a component has internal properties (CPU, memory) and external ones (latency, errors); the fault of
    another reaches it through the external ones only, however much it grows on the way; so the root cause deviates in
    both, a victim in the external ones alone. Decided here, as the source was read in part and its code was not found:
    a metric's deviation is its largest distance from the normal median in normal interquartile ranges, as in ``baro``
    (the paper warns of information-theoretic scores, which saturate in short windows); a property deviates as its worst
    metric; ``both`` is the smaller of the two. Internal are the metrics of resources and queues (saturation), external
    those of latency, errors and traffic (:mod:`tasks.rca.features.golden_signals`). A service without internal metrics
    scores 0, as nothing tells it from a victim; one without external metrics scores by its internal ones alone.
    Ranks services. Inputs: metrics, inject time. Parameters: ``direction`` (``both``; ``up``: only rises). Complexity:
    O(columns x rows log rows). Randomness: none. Source: Pham, arXiv 2601.21359, 2026. Deviations: see above; a column
    that is constant, stops or begins: see :mod:`tasks.rca.features.deviation`.
    """
    normal, abnormal = view.split()
    deviation = change_scores(normal, abnormal, centre="median", direction=direction).dropna()
    services = deviation.index.get_level_values(0)
    internal = np.array([golden_signal(metric) == "saturation" for metric in deviation.index.get_level_values(1)])
    if not internal.any():
        raise MethodError("no internal metric (a resource or a queue) has samples")
    inside, outside = (_worst(deviation[kind], services[kind]) for kind in (internal, ~internal))
    scores = {
        service: min(inside[service], outside.get(service, np.inf)) if service in inside else 0.0
        for service in services.unique()
    }
    return Ranking.of_services(scores)


def _worst(deviation: pd.Series, services: pd.Index) -> dict[str, float]:
    worst = deviation.groupby(np.asarray(services)).max()
    return dict(zip(worst.index.astype(str), worst.to_numpy().tolist(), strict=True))
