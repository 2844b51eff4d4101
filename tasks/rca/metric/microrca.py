"""MicroRCA: the anomalous part of the call graph, and a walk over it that starts where resources follow latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tasks.rca.features.calls import CallGraph, build_call_graph
from tasks.rca.features.correlation import correlations, standardise_samples
from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.features.golden_signals import golden_signal
from tasks.rca.graph.random_walk import stationary_distribution, transition_matrix
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView, column_names

_LEAST_CORRELATION = 0.01
_POINTS_PER_WINDOW = 60
_HOST_PREFIX = "node_"


@method(
    name="microrca",
    family="metric",
    needs={"metrics", "topology"},
    paper=Paper("MicroRCA: Root Cause Localization of Performance Issues in Microservices", "NOMS", 2020),
)
def microrca(
    view: CaseView,
    rng: np.random.Generator,
    *,
    threshold: float = 0.5,
    smoothing: int = 10,
    alpha: float = 0.55,
    walk: Literal["to_callers", "to_callees"] = "to_callers",
    restart_probability: float = 0.15,
) -> Ranking:
    """Services around calls that became slow, by a walk that starts where a service's resources follow its latency.

    Ranks services: the callees of anomalous calls, whoever calls them or is called by them (the latter at 0 if the walk
    never gets there); all others are left out.
    A call edge is anomalous if clustering its latency (BIRCH, radius at most ``threshold`` of its normal mean, after a
    moving mean over ``smoothing`` samples) finds a cluster of higher values that holds no sample from before the fault.
    A callee's anomalous latency is the mean over its anomalous calls. Edge weights: ``alpha`` if anomalous; else the
    absolute correlation of the edge's latency with the anomalous latency of its end; to a host the mean weight of the
    calls into the service times the best absolute correlation of its anomalous latency with the host's resources. The
    walk starts in callees of anomalous calls, by their mean edge weight times the best absolute correlation (0.01 at
    least) of their anomalous latency with their own resources; it runs against the calls (``walk``), from a service to
    its host, and starts afresh with ``restart_probability`` at each step.
    Inputs: topology, spans or latency metrics, resource metrics (saturation by
    :mod:`tasks.rca.features.golden_signals`), the front end's latency, inject time. Parameters: ``threshold`` 0.5,
    ``smoothing`` 10, ``alpha`` 0.55, ``walk`` ``to_callers`` (``to_callees``: along the calls), ``restart_probability``
    0.15. Complexity: O((services + hosts)^3 + rows x edges), besides the call graph. Randomness: none. Source: Wu,
    Tordsson, Elmroth, Kao, NOMS 2020, and the authors' public code for what the paper leaves open. Deviations: the
    authors cluster the series at unit length with threshold 0.045, which for 120 samples is 0.5 of its root mean
    square; here it is a share of the normal mean and both windows weigh the same, so neither unit nor number of rows
    decides. Users' calls into the front end are an edge too (the paper has an ingress gateway). A host's resources are
    the metrics ``node_*`` of the services on it or, as most cases have none, the means of their own standardised
    resource metrics. Correlations are absolute, so no weight is negative, and the walk's shares are computed, so it
    always converges. The authors' script lowers its threshold for two services by name, rounds weights to three digits
    and meant to turn the edges to hosts round, but tests a variable left over from a loop before; none of that is
    repeated. No anomalous call: an error, not a guess.
    """
    graph = build_call_graph(view)
    edges = _with_users(graph)
    relative = relative_to_normal(edges.latency, graph.abnormal)
    anomalous = has_risen(relative, graph.abnormal, threshold, smoothing)
    if not anomalous.any():
        raise MethodError("no anomalous call")
    part = _anomalous_part(graph, edges, relative, anomalous, _resources(view, graph), alpha)
    between = part.calls.T if walk == "to_callers" else part.calls
    transition = transition_matrix(between + part.placements)
    shares = stationary_distribution(transition, part.start, restart_probability=restart_probability)
    return Ranking.of_services({graph.services[i]: shares[i] for i in part.services})


@dataclass(frozen=True)
class _Edges:
    """Call edges as in the call graph, and one from the users, who have the position after the last service."""

    callers: np.ndarray
    callees: np.ndarray
    latency: np.ndarray


def _with_users(graph: CallGraph) -> _Edges:
    return _Edges(
        callers=np.append(graph.callers, len(graph.services)),
        callees=np.append(graph.callees, graph.front_end),
        latency=np.column_stack([graph.edge_latency, graph.front_end_latency]),
    )


def relative_to_normal(latency: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """(rows, edges) latency as a share of the edge's mean in the normal window; NaN throughout if it has none there."""
    known = np.isfinite(latency)
    largest = np.max(np.where(known, np.abs(latency), 0.0), axis=0, initial=0.0)
    shares = np.where(known, latency, np.nan) / np.where(largest > 0, largest, 1.0)
    before = known[~abnormal].sum(axis=0)
    mean = np.nansum(shares[~abnormal], axis=0) / np.maximum(before, 1)
    return shares / np.where(before > 0, np.maximum(mean, RESOLUTION), np.nan)


def has_risen(relative: np.ndarray, abnormal: np.ndarray, threshold: float, smoothing: int) -> np.ndarray:
    """(edges,) bool: clustering finds higher values after the inject time that are unlike any before.

    One pass of BIRCH (Zhang, Ramakrishnan, Livny, SIGMOD 1996; its leaf entries only) over the smoothed values in the
    order of time: a value joins the nearest cluster if that keeps the cluster's radius within ``threshold``, else it
    opens a new one. The values of each window weigh 1 together, at most 60 of each are taken.
    """
    before, after = (_moving_means(window, smoothing) for window in (relative[~abnormal], relative[abnormal]))
    weights = np.concatenate([np.isfinite(part) / np.maximum(_samples(part), 1) for part in (before, after)])
    centres, opened_before = birch_clusters(np.concatenate([before, after]), weights, threshold, len(before))
    is_new = np.arange(len(centres))[:, None] >= opened_before
    known = (_samples(before) > 0) & (_samples(after) > 0)
    return known & np.any(is_new & (centres > 1.0), axis=0)


def _samples(values: np.ndarray) -> np.ndarray:
    """(columns,) how many are not NaN."""
    return np.isfinite(values).sum(axis=0)


def _moving_means(values: np.ndarray, length: int) -> np.ndarray:
    """Means over ``length`` successive samples of each column, or over all if it has fewer; at most
    ``_POINTS_PER_WINDOW`` of them, evenly spaced, NaN for the rest."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    samples = np.take_along_axis(np.where(known, values, 0.0), np.argsort(~known, axis=0, kind="stable"), axis=0)
    totals = np.cumsum(np.pad(samples, ((1, 0), (0, 0))), axis=0)
    width = np.minimum(max(length, 1), count)
    place = np.linspace(0.0, 1.0, min(len(values), _POINTS_PER_WINDOW))[:, None]
    end = np.round(width + (count - width) * place).astype(int)
    means = (np.take_along_axis(totals, end, axis=0) - np.take_along_axis(totals, end - width, axis=0)) / np.maximum(
        width, 1
    )
    again = np.diff(end, axis=0, prepend=-1) == 0
    return np.where((count > 0) & ~again, means, np.nan)


def birch_clusters(
    points: np.ndarray, weights: np.ndarray, threshold: float, after: int
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of each column of ``points`` (n, series), NaN left out, in the order in which they were opened.

    Returns (n, series) centres, NaN where there is no such cluster, and (series,) how many there were after the first
    ``after`` points.
    """
    size, series = points.shape
    count, total, square = np.zeros((3, size, series))
    opened, opened_before = np.zeros(series, dtype=int), np.zeros(series, dtype=int)
    for i in range(size):
        if i == after:
            opened_before = opened.copy()
        known = np.flatnonzero(np.isfinite(points[i]))
        value, weight = points[i, known], weights[i, known]
        used = int(opened.max(initial=0)) + 1
        filled = count[:used, known] > 0
        centre = np.divide(total[:used, known], count[:used, known], out=np.full(filled.shape, np.inf), where=filled)
        nearest = np.argmin(np.abs(centre - value), axis=0)
        joined = count[nearest, known] + weight
        mean = (total[nearest, known] + weight * value) / joined
        spread = (square[nearest, known] + weight * value**2) / joined - mean**2
        fits = (spread <= threshold**2) & (opened[known] > 0)
        cluster = np.where(fits, nearest, opened[known])
        opened[known] += ~fits
        count[cluster, known] += weight
        total[cluster, known] += weight * value
        square[cluster, known] += weight * value**2
    if size == after:
        opened_before = opened.copy()
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), opened_before


@dataclass(frozen=True)
class _Resources:
    """``values``: (rows, columns) standardised resource metrics; ``owner``: (columns,) positions of their services;
    ``metric``: (columns,) a number for each metric name; ``is_host``: (columns,) it is of the service's host."""

    values: np.ndarray
    owner: np.ndarray
    metric: np.ndarray
    is_host: np.ndarray

    def of_service(self, service: int) -> np.ndarray:
        return self.values[:, (self.owner == service) & ~self.is_host]

    def of_host(self, services: np.ndarray) -> np.ndarray:
        """(rows, metrics) mean of each metric over the services of a host that have it."""
        on_host = np.isin(self.owner, services)
        columns = np.flatnonzero(on_host & self.is_host if (on_host & self.is_host).any() else on_host)
        same = self.metric[columns][:, None] == np.unique(self.metric[columns])
        known = np.isfinite(self.values[:, columns])
        count = known @ same.astype(float)
        return np.where(count > 0, np.nan_to_num(self.values[:, columns]) @ same / np.maximum(count, 1), np.nan)


def _resources(view: CaseView, graph: CallGraph) -> _Resources:
    names = column_names(view.metrics)
    kept = [i for i, (_, metric) in enumerate(names) if golden_signal(metric) == "saturation"]
    return _Resources(
        is_host=np.array([names[i][1].startswith(_HOST_PREFIX) for i in kept], dtype=bool),
        values=standardise_samples(view.metrics.to_numpy(dtype=float)[:, kept]),
        owner=pd.Index(graph.services).get_indexer(pd.Index([names[i][0] for i in kept])),
        metric=pd.factorize(np.array([names[i][1] for i in kept], dtype=object))[0],
    )


@dataclass(frozen=True)
class _Part:
    """The anomalous part of the graph. Nodes: the services, the users, the hosts. ``calls`` [caller, callee] and
    ``placements`` [service, host]: (nodes, nodes) weights. ``start``: (nodes,) where the walk begins. ``services``:
    positions of the services that belong to it."""

    calls: np.ndarray
    placements: np.ndarray
    start: np.ndarray
    services: np.ndarray


def _anomalous_part(
    graph: CallGraph,
    edges: _Edges,
    relative: np.ndarray,
    anomalous: np.ndarray,
    resources: _Resources,
    alpha: float,
) -> _Part:
    users = len(graph.services)
    nodes = users + 1 + graph.host_count
    slow = np.unique(edges.callees[anomalous])
    is_slow = np.isin(np.arange(users + 1), slow)
    latency = _anomalous_latency(edges, relative, anomalous, slow)

    kept = np.flatnonzero(is_slow[edges.callers] | is_slow[edges.callees])
    caller, callee = edges.callers[kept], edges.callees[kept]
    end = np.searchsorted(slow, np.where(is_slow[callee], callee, caller))
    together = np.abs(correlations(relative[:, kept], latency))[np.arange(len(kept)), end]
    weight = np.where(anomalous[kept], alpha, together)
    calls = np.zeros((nodes, nodes))
    calls[caller, callee] = weight

    in_count, out_count = np.bincount(callee, minlength=nodes), np.bincount(caller, minlength=nodes)
    mean_in = calls.sum(axis=0) / np.maximum(in_count, 1)
    mean_weight = (calls.sum(axis=0) + calls.sum(axis=1)) / np.maximum(in_count + out_count, 1)
    placements, start = np.zeros((nodes, nodes)), np.zeros(nodes)
    for k, service in enumerate(slow):
        follows = latency[:, [k]]
        start[service] = mean_weight[service] * _best_correlation(follows, resources.of_service(service))
        for host in graph.hosts[graph.hosts[:, 0] == service, 1]:
            on_host = graph.hosts[graph.hosts[:, 1] == host, 0]
            closeness = _best_correlation(follows, resources.of_host(on_host))
            placements[service, users + 1 + host] = mean_in[service] * closeness
    belongs = np.unique(np.concatenate([caller, callee]))
    return _Part(calls, placements, start, belongs[belongs < users])


def _anomalous_latency(edges: _Edges, relative: np.ndarray, anomalous: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """(rows, slow services) mean over the anomalous calls into each."""
    series = relative[:, anomalous]
    into = (edges.callees[anomalous][:, None] == slow).astype(float)
    known = np.isfinite(series)
    count = known @ into
    return np.where(count > 0, np.nan_to_num(series) @ into / np.maximum(count, 1), np.nan)


def _best_correlation(latency: np.ndarray, resources: np.ndarray) -> float:
    return float(np.abs(correlations(latency, resources)).max(initial=_LEAST_CORRELATION))
