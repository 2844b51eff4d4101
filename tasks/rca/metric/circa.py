"""CIRCA: metrics that no longer follow from their causes as they did before the fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy.sparse import csgraph

from tasks.rca.features.calls import build_call_graph
from tasks.rca.features.deviation import require_windows
from tasks.rca.features.golden_signals import GoldenSignal, golden_signal
from tasks.rca.features.panel import Panel, build_panel
from tasks.rca.graph.causal_graph import DirectedEdges
from tasks.rca.graph.pc import learn_pc
from tasks.rca.graph.regression import regression_scores, require_normal_rows
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

_WITHIN_SERVICE: dict[GoldenSignal, tuple[GoldenSignal, ...]] = {
    "traffic": (),
    "saturation": ("traffic",),
    "latency": ("traffic", "saturation"),
    "errors": ("traffic", "saturation", "latency"),
}
_FROM_CALLERS: tuple[GoldenSignal, ...] = ("traffic",)
_FROM_CALLEES: tuple[GoldenSignal, ...] = ("latency", "errors")
_Signal = tuple[int, GoldenSignal]


@method(
    name="circa",
    family="metric",
    needs={"metrics"},
    paper=Paper(
        "Causal Inference-Based Root Cause Analysis for Online Service Systems with Intervention Recognition",
        "KDD",
        2022,
    ),
)
def circa(
    view: CaseView,
    rng: np.random.Generator,
    *,
    graph: Literal["structural", "pc"] = "structural",
    lags: int = 0,
    threshold: float = 3.0,
    alpha: float = 0.05,
) -> Ranking:
    """Metrics by how far they stray from what their causes predict, plus the most anomalous of their effects.

    Regression-based hypothesis testing: in the normal window each metric is regressed (least squares) on its causes in
    the graph, at the same time and ``lags`` steps back; its score is the largest absolute residual of the abnormal
    window, in standard deviations of the normal residuals. Descendant adjustment: a metric that scores ``threshold`` or
    more gets the largest score among its effects added, and among their effects where an effect itself scores less.
    Equal scores rank by topological order, causes first.
    Graph ``structural``: metrics stand for the golden signals of their service
    (:mod:`tasks.rca.features.golden_signals`); traffic causes saturation, latency and errors, saturation causes latency
    and errors, latency causes errors; the caller's traffic causes the callee's, the callee's latency and errors cause
    the caller's. A signal without metrics hands on its causes. Graph ``pc``: PC on the normal window; only its directed
    edges make causes (arXiv 2603.02057 ran CIRCA on a PC graph, over both windows). ``pc`` also stands in for
    ``structural`` where no call between two services is known. Ranks metrics, those without an edge too (by their own
    deviation); a service scores as its worst one. Inputs: metrics, inject time, topology and spans (calls). Parameters:
    ``graph`` ``structural``, ``lags`` 0, ``threshold`` 3, ``alpha`` 0.05 (of PC). Complexity: O(columns x rows x
    causes^2), or that of PC. Randomness: none. Source: Li et al., KDD 2022. Deviations: the residual's standard
    deviation counts the regression's degrees of freedom, else metrics with many causes would seem to stray. A
    regression takes at most half as many causes as there are normal rows, the most correlated ones; causes that do not
    move in the normal window tell it nothing. Calls in a circle make no edge, as the graph must have no cycle. A metric
    that never moved in the normal window: see :mod:`tasks.rca.features.deviation`.
    """
    require_windows(*view.split())
    panel = build_panel(view)
    require_normal_rows(panel, lags)
    causal_graph = structural_graph(view, panel) if graph == "structural" else None
    if causal_graph is None:
        causal_graph = DirectedEdges.of(learn_pc(panel.values[~panel.abnormal], alpha=alpha))
    return Ranking.of_metrics(panel.scores(regression_scores(panel, causal_graph, lags=lags, threshold=threshold)))


def structural_graph(view: CaseView, panel: Panel) -> DirectedEdges | None:
    """Return which column causes which by calls and golden signals; None if no call between services is known."""
    try:
        calls = build_call_graph(view).calls()
    except MethodError:
        return None
    circle = csgraph.connected_components(calls, connection="strong")[1]
    calls &= circle[:, None] != circle
    position = {service: i for i, service in enumerate(view.services)}
    columns: dict[_Signal, list[int]] = {}
    for i, (service, metric) in enumerate(panel.columns):
        columns.setdefault((position[service], golden_signal(metric)), []).append(i)
    blocks = [
        (np.repeat(columns[cause], len(effects)), np.tile(effects, len(columns[cause])))
        for effect, effects in columns.items()
        for cause in _nearest_observed_causes(effect, calls, columns)
    ]
    none = np.empty(0, dtype=np.intp)
    causes, results = (np.concatenate([none, *part]) for part in zip(*blocks, strict=True)) if blocks else (none, none)
    return DirectedEdges(len(panel.columns), causes, results)


def _nearest_observed_causes(
    effect: _Signal, calls: np.ndarray, columns: dict[_Signal, list[int]]
) -> Iterator[_Signal]:
    seen: set[_Signal] = set()
    pending = list(_causes_of(effect, calls))
    while pending:
        cause = pending.pop()
        if cause in seen:
            continue
        seen.add(cause)
        if cause in columns:
            yield cause
        else:
            pending.extend(_causes_of(cause, calls))


def _causes_of(effect: _Signal, calls: np.ndarray) -> Iterator[_Signal]:
    service, signal = effect
    for cause in _WITHIN_SERVICE[signal]:
        yield service, cause
    if signal in _FROM_CALLERS:
        for caller in np.flatnonzero(calls[:, service]):
            yield int(caller), signal
    if signal in _FROM_CALLEES:
        for callee in np.flatnonzero(calls[service]):
            yield int(callee), signal
