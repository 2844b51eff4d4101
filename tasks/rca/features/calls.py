"""The call graph of a case: who calls whom, how long the calls took at each time, and what runs where.

How long a call took is what its caller saw, so a slow link between the two counts, and the caller's own work does not.
Spans tell it where the caller has a span for the call itself, within one for the request that it serves: the call
lasted as long as that span, or, if the span ended when the callee accepted, as the caller's span around it, provided
they waited for nothing else (they have one child each). Otherwise it lasted as long as the callee's own span. A call
counts in the step in which it ended.

Where the spans of an edge do not reach into both windows (a data set that recorded spans only around the fault, an edge
that only the topology knows) the edge has the callee's latency metric instead, if there is one. What is normal takes
three steps at least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.case import CALLS, RUNS_ON
from tasks.rca.features.golden_signals import golden_signal
from tasks.rca.features.rows import quantile_per_cell, row_of
from tasks.rca.features.silence import fill_silence, find_silence
from tasks.rca.features.spans import link_traces, span_table
from tasks.rca.method import MethodError
from tasks.rca.view import SLI_QUANTILE, CaseView, column_names
from tasks.spans import Traces

_PREFERRED_LATENCY = (metrics.LATENCY_P90.name, metrics.LATENCY_P50.name)
_LEAST_NORMAL_ROWS = 3


@dataclass(frozen=True)
class CallGraph:
    """``services``: the candidates; all positions refer to it. ``callers``, ``callees``: (edges,) positions of the two
    ends of each call edge, each pair once, no service with itself.

    ``edge_latency``: (rows, edges), ``service_latency``: (rows, services), of the calls into a service whoever made
    them; ``front_end_latency``: (rows,), what users saw. Each is the 90th percentile of the calls that ended in the
    step, or a metric; one row per row of ``view.metrics``; NaN: no sample. Where calls stop at the fault the gap has a
    latency far above theirs, three times the normal mean or more: a call that nobody answers takes long. ``abnormal``:
    (rows,) bool, True from the inject time on. ``front_end``: position. ``hosts``: (placements, 2) positions of a
    service and number of the host it runs on, 0 to ``host_count`` - 1.
    """

    services: tuple[str, ...]
    callers: np.ndarray
    callees: np.ndarray
    edge_latency: np.ndarray
    service_latency: np.ndarray
    front_end_latency: np.ndarray
    abnormal: np.ndarray
    front_end: int
    hosts: np.ndarray

    @property
    def host_count(self) -> int:
        return int(self.hosts[:, 1].max(initial=-1)) + 1

    def calls(self) -> np.ndarray:
        """Return (services, services) bool [caller, callee]."""
        adjacency = np.zeros((len(self.services), len(self.services)), dtype=bool)
        adjacency[self.callers, self.callees] = True
        return adjacency


def build_call_graph(view: CaseView) -> CallGraph:
    """Build the graph of the calls between the candidates of ``view``: those of its topology and those that its spans
    show.

    O(spans log spans + rows x edges).

    Raises:
        MethodError: no call between two candidates is known.
    """
    services, size = view.services, len(view.services)
    calls = _calls_in_spans(view)
    known = (calls.caller >= 0) & (calls.caller != calls.callee)
    pairs = np.unique(np.concatenate([calls.caller[known] * size + calls.callee[known], _declared_calls(view)]))
    if not len(pairs):
        raise MethodError("no call between two services is known")
    callers, callees = pairs // size, pairs % size

    index = pd.DatetimeIndex(view.metrics.index)
    abnormal = np.asarray(index >= view.inject_time)
    row = row_of(index, calls.end, view.step_ns)
    edge = np.where(known, np.searchsorted(pairs, calls.caller * size + calls.callee), -1)
    of_metrics = _latency_metrics(view)
    edge_latency = quantile_per_cell(row, edge, calls.duration, (len(index), len(pairs)), SLI_QUANTILE)
    service_latency = quantile_per_cell(row, calls.callee, calls.duration, (len(index), size), SLI_QUANTILE)
    service_latency = _reaching_both_windows(service_latency, of_metrics, abnormal)
    front_end = services.index(view.front_end)
    return CallGraph(
        services=services,
        callers=callers,
        callees=callees,
        edge_latency=_with_silence(
            _reaching_both_windows(edge_latency, of_metrics[:, callees], abnormal), callees, abnormal
        ),
        service_latency=_with_silence(service_latency, np.arange(size), abnormal),
        front_end_latency=_front_end_latency(view, index, service_latency[:, front_end]),
        abnormal=abnormal,
        front_end=front_end,
        hosts=_placements(view),
    )


def _declared_calls(view: CaseView) -> np.ndarray:
    """Return the topology's call edges between two candidates, as caller * services + callee."""
    size = len(view.services)
    rows = view.topology[(view.topology["relation"] == CALLS).to_numpy()]
    caller, callee = _positions(rows["source"], view.services), _positions(rows["target"], view.services)
    between = (caller >= 0) & (callee >= 0) & (caller != callee)
    return caller[between] * size + callee[between]


def _placements(view: CaseView) -> np.ndarray:
    """Return (placements, 2) service and host. Hosts are numbered by the first service that they hold, not by name."""
    rows = view.topology[(view.topology["relation"] == RUNS_ON).to_numpy()]
    service = _positions(rows["source"], view.services)
    names = rows["target"].astype(str).to_numpy()[service >= 0]
    service = service[service >= 0]
    order = np.argsort(service, kind="stable")
    host = pd.factorize(names[order])[0]
    return np.unique(np.column_stack([service[order], host]), axis=0)


def _positions(names: pd.Series, services: tuple[str, ...]) -> np.ndarray:
    """Return the position of each name among ``services``, -1 for any other."""
    return pd.Index(services).get_indexer(pd.Index(names.astype(str))).astype(np.int64)


@dataclass(frozen=True)
class _Calls:
    """Calls, all fields (calls,). ``caller`` and ``callee``: positions, ``caller`` -1 if unknown or no candidate.
    ``end``: ns since the epoch. ``duration``: s."""

    caller: np.ndarray
    callee: np.ndarray
    end: np.ndarray
    duration: np.ndarray


def _calls_in_spans(view: CaseView) -> _Calls:
    """Return the calls into candidates."""
    table, traces = span_table(view), link_traces(view)
    service = pd.Index(view.services).get_indexer(pd.Index(table.services))[table.service]
    callers = traces.callers(service)
    call = np.flatnonzero((service >= 0) & (callers != service))
    around = _shown_by(call, traces, service, table.duration)
    return _Calls(
        caller=callers[call],
        callee=service[call],
        end=table.end[around],
        duration=table.duration[around],
    )


def _shown_by(call: np.ndarray, traces: Traces, service: np.ndarray, duration: np.ndarray) -> np.ndarray:
    """Return the span that shows how long the caller waited for each call: one of the caller's, or the call itself.

    It is one of the caller's only if the span next to the call is within another of the caller's (a caller's outermost
    span is its whole work), waited for nothing else, and lasts at least as long as the call.
    """
    parent = traces.parent
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    around = traces.caller_span(call, service, duration, children == 1)
    beside = parent[call]
    within = (beside >= 0) & (parent[beside] >= 0) & (service[parent[beside]] == service[beside])
    waits = within & (children[beside] == 1) & (duration[around] >= duration[call])
    return np.where(waits, around, call)


def _latency_metrics(view: CaseView) -> np.ndarray:
    """Return (rows, services) the latency metric of each service, NaN if it has none."""
    table = np.full((len(view.metrics), len(view.services)), np.nan)
    position = {service: i for i, service in enumerate(view.services)}
    chosen: dict[int, tuple[tuple[int, str], int]] = {}
    for column, (service, metric) in enumerate(column_names(view.metrics)):
        if service in position and golden_signal(metric) == "latency":
            place = _PREFERRED_LATENCY.index(metric) if metric in _PREFERRED_LATENCY else len(_PREFERRED_LATENCY)
            candidate = ((place, metric), column)
            chosen[position[service]] = min(candidate, chosen.get(position[service], candidate))
    values = view.metrics.to_numpy(dtype=float)
    for service_position, (_, column) in chosen.items():
        table[:, service_position] = values[:, column]
    return np.where(np.isfinite(table), table, np.nan)


def _reaching_both_windows(of_spans: np.ndarray, of_metrics: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """Choose per column: spans if both windows have enough of them, else the metric, else what the spans have."""
    sampled = np.isfinite(of_spans)
    both = (sampled[~abnormal].sum(axis=0) >= _LEAST_NORMAL_ROWS) & sampled[abnormal].any(axis=0)
    return np.where(both | ~np.isfinite(of_metrics).any(axis=0), of_spans, of_metrics)


def _with_silence(latency: np.ndarray, service: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """Return ``latency`` (rows, columns) of the calls into each ``service``, made long where the calls stopped."""
    columns = pd.MultiIndex.from_arrays([service, np.zeros_like(service)])
    silence = find_silence(pd.DataFrame(latency, columns=columns), abnormal)
    return fill_silence(latency, replace(silence, began=np.zeros_like(silence.began)), abnormal, away=1.0, at_least=2.0)


def _front_end_latency(view: CaseView, index: pd.DatetimeIndex, own: np.ndarray) -> np.ndarray:
    """Return the SLI on the rows of the metrics; without an SLI the front end's own latency."""
    sli = view.sli if view.sli.index.equals(index) else view.sli[~view.sli.index.duplicated()].reindex(index)
    values = sli.to_numpy(dtype=float)
    return values if np.isfinite(values).any() else own
