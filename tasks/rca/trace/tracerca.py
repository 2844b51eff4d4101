"""TraceRCA: sets of services that abnormal traces pass through and normal ones do not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION, credible
from tasks.rca.features.silent_services import rank_with_silence
from tasks.rca.features.spans import (
    Duration,
    SpanTable,
    durations,
    link_traces,
    normal_mean_and_deviation,
    of_candidates,
    require_spans,
    span_table,
)
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView
from tasks.spans import Traces

Features = Literal["spans", "spans+metrics"]

LEAST_DEVIATION = 0.01
"""Minimum standard deviation of a feature, as a share of its mean."""
ERROR_FLOOR = 0.01
"""Amount added to the minimum for an error flag."""
MAX_SETS = 5_000
"""Maximum number of closed sets of services before the method gives up."""


@method(
    name="tracerca",
    family="trace",
    needs={"spans"},
    paper=Paper("Practical Root Cause Localization for Microservice Systems via Trace Analysis", "IWQoS", 2021),
)
def tracerca(
    view: CaseView,
    rng: np.random.Generator,
    *,
    duration: Duration = "total",
    features: Features = "spans",
    anomaly_threshold: float = 3.0,
    feature_threshold: float = 0.1,
    feature_margin: float = 1.0,
    min_support: float = 0.1,
    top_sets: int = 100,
    silence: bool = True,
) -> Ranking:
    """Services in the sets that abnormal traces share, by how much the anomaly begins or ends at them.

    Ranks services; one that is in none of the mined sets is left out, one through which anomalies merely pass scores 0.
    An invocation is a span whose parent belongs to another service (a span without parent is called from outside). Per
    pair of services, a feature is useful if its mean severity |value - normal mean| / normal standard deviation grew by
    more than ``feature_margin`` and ``feature_threshold`` of what it was; an invocation is abnormal if the severity of
    a useful feature exceeds ``anomaly_threshold``, and a trace if one of its invocations is. Sets of services that more
    than ``min_support`` of the abnormal traces pass through are mined; the ``top_sets`` with the highest Jaccard index
    (of the traces through the set and the abnormal ones) are kept. In a set, a service scores the index times the
    difference between the numbers of traces with an abnormal invocation of it and by it; its best set counts. Inputs:
    spans, inject time; metrics with ``features`` = ``spans+metrics``. Parameters: ``duration`` total (a span contains
    its children; ``self`` takes their time out, and then both ends of a slow call tie), ``features`` spans (duration
    and error status; ``spans+metrics``: also the metrics of the called service when the span ended),
    ``anomaly_threshold`` 3 (the paper and the authors' script: 1; the "3 sigma" of the name of their function, and what
    arXiv 2603.02057 ran), ``feature_threshold`` 0.1, ``min_support`` 0.1, ``top_sets`` 100 (as in the paper),
    ``feature_margin`` 1 (as in the authors' code; 0 where no trace is abnormal otherwise), ``silence`` (services whose
    spans stop come first, see :mod:`tasks.rca.features.silent_services`; the paper knows abnormal invocations only).
    Complexity: O(spans x (log spans + features) + closed sets x services x kinds of traces); stops at ``MAX_SETS``
    closed sets. Randomness: none. Source: Li et al., IWQoS 2021. Deviations: the paper takes metrics in too; here that
    is an option, so that the default reads traces only. Normal is what came before the inject time, without an earlier
    day. A pair of services that was not seen before has no normal, so its invocations are not abnormal. The standard
    deviation is 1 % of the mean at least (of an error flag 0.01 more, as in the authors' code, whose floors for
    durations depend on their unit; a feature that was constantly 0 is abnormal as soon as it departs), and few normal
    samples vouch for little (:mod:`tasks.rca.features.deviation`). Only closed sets are mined (a set with the same
    traces as a larger one scores the same), and sets that tie with the last one kept are kept. A front-end span
    contains its children and so slows down with them; where both are abnormal, the front end has as many abnormal
    invocations by it as of it, and scores 0. At ``anomaly_threshold`` 1 a third of the normal invocations are abnormal,
    too: where few traces meet the fault, those add up in services that all pass.
    """
    table = span_table(view)
    require_spans(table)
    traces = link_traces(view)
    invocations = _invocations(table, traces)
    values = [(durations(table, traces, duration), 0.0), (table.error.astype(float), ERROR_FLOOR)]
    if features == "spans+metrics":
        values += [(of_metric, 0.0) for of_metric in _metrics_of_callees(view, table)]

    def rank() -> Mapping[str, float]:
        for margin in (feature_margin, 0.0):
            cuts = _Cuts(anomaly_threshold, feature_threshold, margin)
            abnormal = _abnormal(invocations, values, ~table.after, cuts) & table.after
            if abnormal.any():
                break
        else:
            raise MethodError("no abnormal trace after the inject time")
        kinds = _trace_kinds(table, traces, invocations, abnormal)
        members, through = _closed_sets(kinds, min_support, top_sets)
        if not len(members):
            raise MethodError("no service is in enough of the abnormal traces")
        scores = _service_scores(kinds, members, through, top_sets)
        return of_candidates(zip(table.services, scores, strict=True), view)

    return rank_with_silence(view, table, traces, rank, silence=silence)


@dataclass(frozen=True)
class _Cuts:
    """The thresholds of :func:`tracerca`."""

    anomaly_threshold: float
    feature_threshold: float
    feature_margin: float


@dataclass(frozen=True)
class _Invocations:
    """Per span: is it an ``invocation``, of which ``pair`` of services, by which ``caller`` (-1: from outside)."""

    invocation: np.ndarray
    pair: np.ndarray
    pairs: int
    caller: np.ndarray


def _invocations(table: SpanTable, traces: Traces) -> _Invocations:
    caller = traces.callers(table.service)
    pairs, pair = np.unique((caller + 1) * len(table.services) + table.service, return_inverse=True)
    return _Invocations(caller != table.service, pair, len(pairs), caller)


def _metrics_of_callees(view: CaseView, table: SpanTable) -> Iterator[np.ndarray]:
    """Per metric name: its last sample of each span's service when the span ended. Shape (spans,), NaN for none."""
    times = pd.DatetimeIndex(view.metrics.index).as_unit("ns").asi8
    if not len(times):
        return
    row = np.searchsorted(times, table.end, side="right") - 1
    for name in view.metrics.columns.get_level_values(1).unique():
        values = np.full((len(times), len(table.services)), np.nan)
        for i, service in enumerate(table.services):
            if (service, name) in view.metrics.columns:
                values[:, i] = view.metrics[(service, name)]
        yield np.where(row >= 0, values[row, table.service], np.nan)


def _abnormal(
    invocations: _Invocations, features: Sequence[tuple[np.ndarray, float]], before: np.ndarray, cuts: _Cuts
) -> np.ndarray:
    """Tell which spans are invocations that a useful feature shows to be abnormal."""
    abnormal = np.zeros(len(before), dtype=bool)
    for values, floor in features:
        chosen = np.flatnonzero(invocations.invocation & ~np.isnan(values))
        severity = _severity(values[chosen], invocations.pair[chosen], invocations.pairs, before[chosen], floor)
        useful = _is_useful(severity, invocations.pair[chosen], invocations.pairs, before[chosen], cuts)
        abnormal[chosen] |= useful[invocations.pair[chosen]] & (severity > cuts.anomaly_threshold)
    return abnormal


def _severity(values: np.ndarray, pair: np.ndarray, pairs: int, before: np.ndarray, floor: float) -> np.ndarray:
    """Distance from the normal mean in normal standard deviations; infinite for a departure from a constant 0."""
    mean, deviation = normal_mean_and_deviation(values, pair, pairs, before)
    deviation = np.maximum(deviation, LEAST_DEVIATION * np.abs(mean) + floor)
    count = np.bincount(pair[before], minlength=pairs)
    largest = np.zeros(pairs)
    np.maximum.at(largest, pair, np.abs(values))
    resolution = RESOLUTION * largest[pair]
    distance, spread = np.abs(values - mean[pair]), deviation[pair]
    with np.errstate(divide="ignore", invalid="ignore"):
        severity = np.where(spread > resolution, distance / spread, np.where(distance > resolution, np.inf, 0.0))
    return np.where(np.isnan(mean[pair]), 0.0, credible(severity, count[pair]))


def _is_useful(severity: np.ndarray, pair: np.ndarray, pairs: int, before: np.ndarray, cuts: _Cuts) -> np.ndarray:
    """Per pair: did the feature become more severe after the inject time?"""
    means = []
    for window in (before, ~before):
        count = np.bincount(pair[window], minlength=pairs)
        means.append(np.bincount(pair[window], weights=severity[window], minlength=pairs) / np.maximum(count, 1))
    return means[1] > (1 + cuts.feature_threshold) * means[0] + cuts.feature_margin


@dataclass(frozen=True)
class _TraceKinds:
    """Traces after the inject time, grouped by the set of services that they pass through.

    ``members``: (kinds, services) bool. ``traces``, ``abnormal``: (kinds,) how many there are. ``called``, ``calling``:
    (kinds, services) traces with an abnormal invocation of, and by, the service.
    """

    members: np.ndarray
    traces: np.ndarray
    abnormal: np.ndarray
    called: np.ndarray
    calling: np.ndarray


def _trace_kinds(table: SpanTable, traces: Traces, invocations: _Invocations, abnormal: np.ndarray) -> _TraceKinds:
    services = len(table.services)
    after = np.bincount(traces.trace[table.after], minlength=traces.count) > 0
    passes, called, calling = (np.zeros((traces.count, services), dtype=bool) for _ in range(3))
    passes[traces.trace, table.service] = True
    called[traces.trace[abnormal], table.service[abnormal]] = True
    by_service = abnormal & (invocations.caller >= 0)
    calling[traces.trace[by_service], invocations.caller[by_service]] = True

    packed, kind = np.unique(np.packbits(passes[after], axis=1), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    return _TraceKinds(
        members=np.unpackbits(packed, axis=1, count=services).astype(bool),
        traces=np.bincount(kind),
        abnormal=np.bincount(kind, weights=called[after].any(axis=1)),
        called=_sum_rows(called[after], kind),
        calling=_sum_rows(calling[after], kind),
    )


def _sum_rows(rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sum of the rows of each group; every group has a row."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    return np.add.reduceat(rows[order].astype(float), starts, axis=0)


def _closed_sets(kinds: _TraceKinds, min_support: float, top_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Closed sets of services with the highest Jaccard index, that have more than ``min_support``.

    Returns:
        (sets, services) bool: the members; (sets, kinds) bool: the kinds of traces that pass through all of them. The
        sets that rank among the first ``top_sets``, ties included, are among them.

    Each closed set is reached once, by adding a service to a smaller one and closing the result, as in Uno et al.,
    "LCM ver. 2", FIMI 2004. Support bounds the index and only falls as sets grow: sets are looked at in the order of
    their support, until it is below the lowest index that still ranks.
    """
    total = kinds.abnormal.sum()
    members: list[np.ndarray] = []
    through: list[np.ndarray] = []
    highest: list[float] = []
    every = np.ones(len(kinds.traces), dtype=bool)
    open_sets = [(-1.0, 0, every, _shared_by(kinds, every), 0)]
    opened = 1
    while open_sets:
        falling_support, _, kinds_of_set, closed, begin = heapq.heappop(open_sets)
        if len(highest) == top_sets and -falling_support < highest[0]:
            break
        if len(members) == MAX_SETS:
            raise MethodError(f"more than {MAX_SETS} sets of services are suspicious; this method stops there")
        if closed.any():
            members.append(closed)
            through.append(kinds_of_set)
            heapq.heappush(highest, float(_jaccard_index(kinds, kinds_of_set)))
            if len(highest) > top_sets:
                heapq.heappop(highest)
        support = (kinds.abnormal * kinds_of_set) @ kinds.members / total
        for service in np.flatnonzero((support > min_support) & ~closed):
            if service < begin:
                continue
            smaller = kinds_of_set & kinds.members[:, service]
            closure = _shared_by(kinds, smaller)
            if (closure[:service] == closed[:service]).all():
                heapq.heappush(open_sets, (-support[service], opened, smaller, closure, int(service) + 1))
                opened += 1
    return np.array(members), np.array(through)


def _jaccard_index(kinds: _TraceKinds, through: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of the traces of the kinds ``through`` (..., kinds) bool and the abnormal ones."""
    both = through @ kinds.abnormal
    return both / (through @ kinds.traces + kinds.abnormal.sum() - both)


def _shared_by(kinds: _TraceKinds, chosen: np.ndarray) -> np.ndarray:
    """Services that every one of the ``chosen`` kinds of traces passes through."""
    return np.logical_and.reduce(kinds.members[chosen], axis=0)


def _service_scores(kinds: _TraceKinds, members: np.ndarray, through: np.ndarray, top_sets: int) -> np.ndarray:
    """Best Jaccard index times in-set score per service; NaN for one that is in none of the sets kept."""
    index = _jaccard_index(kinds, through)
    kept = index >= np.sort(index)[-top_sets:][0]
    in_set = np.abs(through[kept] @ kinds.called - through[kept] @ kinds.calling)
    return np.fmax.reduce(np.where(members[kept], index[kept, None] * in_set, np.nan), axis=0)
