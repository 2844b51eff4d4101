"""Microscope: from the front end through the slow services to those that no slow callee explains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csgraph, csr_array

from tasks.rca.features.calls import CallGraph, build_call_graph
from tasks.rca.features.correlation import correlations
from tasks.rca.features.deviation import deviation_scores
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="microscope",
    family="metric",
    needs={"metrics", "topology"},
    paper=Paper(
        "Microscope: Pinpoint Performance Issues with Causal Graphs in Micro-service Environments", "ICSOC", 2018
    ),
)
def microscope(view: CaseView, rng: np.random.Generator, *, sigmas: float = 3.0, share: float = 0.05) -> Ranking:
    """Slow services without a slow callee, reached from the front end, by how closely they follow its latency.

    Ranks services: the candidates only, as the paper does; a service that is not slow, that a slow callee explains, or
    that no path of slow services joins to the front end is left out. A service is slow if ``share`` of the steps after
    the inject time lie more than ``sigmas`` standard deviations above the mean before it, by the latency of the calls
    into it (for the front end: what users saw). Candidates that call each other in a circle stand together. A candidate
    scores the absolute correlation of its latency with the front end's.
    Inputs: topology, spans or latency metrics, the front end's latency, inject time. Parameters: ``sigmas`` 3,
    ``share`` 0.05 (towards 0: one step is enough). Complexity: O(edges + rows x services), besides the call graph.
    Randomness: none. Source: Lin, Chen, Zheng, ICSOC 2018.
    Deviations: the paper learns the edges between services from network connections with PC; here they are the calls of
    the case. It asks of each moment whether it is abnormal; ``share`` makes one answer of a window. Where the latency
    was constant before the fault, see :mod:`tasks.rca.features.deviation`. No slow service next to the front end: an
    error, not a guess.
    """
    graph = build_call_graph(view)
    candidates = unexplained(graph, slow_services(graph, sigmas, share))
    if not len(candidates):
        raise MethodError("no slow service is joined to the front end")
    similarity = np.abs(correlations(graph.service_latency, graph.front_end_latency[:, None])[:, 0])
    return Ranking.of_services({graph.services[i]: similarity[i] for i in candidates})


def slow_services(graph: CallGraph, sigmas: float, share: float) -> np.ndarray:
    """(services,) bool: the upper ``share`` of a service's abnormal samples is ``sigmas`` above its normal mean."""
    latency = graph.service_latency.copy()
    latency[:, graph.front_end] = graph.front_end_latency
    table = pd.DataFrame(latency)
    upper = table[graph.abnormal].quantile(1 - share).to_frame().T
    return (deviation_scores(table[~graph.abnormal], upper, centre="mean", direction="up") > sigmas).to_numpy()


def unexplained(graph: CallGraph, slow: np.ndarray) -> np.ndarray:
    """Positions of the slow services that a path of slow ones joins to the front end and no slow callee explains.

    The front end itself need not be slow. Services that call each other in a circle explain nothing among themselves.
    """
    size = len(graph.services)
    visited = slow.copy()
    visited[graph.front_end] = True
    kept = visited[graph.callers] & visited[graph.callees]
    caller, callee = graph.callers[kept], graph.callees[kept]
    calls = csr_array((np.ones(len(caller)), (caller, callee)), shape=(size, size))
    reached = np.zeros(size, dtype=bool)
    reached[csgraph.breadth_first_order(calls, graph.front_end, return_predecessors=False)] = True
    circle = csgraph.connected_components(calls, connection="strong")[1]
    leaves = circle[caller] != circle[callee]
    explained = np.isin(circle, circle[caller[leaves & slow[callee]]])
    return np.flatnonzero(reached & slow & ~explained)
