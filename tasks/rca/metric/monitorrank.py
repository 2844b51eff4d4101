"""MonitorRank: where a random walk over the call graph, drawn to what moves with the front end, spends its time."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.calls import CallGraph, build_call_graph
from tasks.rca.features.correlation import correlations
from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.graph.random_walk import cause_walk_weights, stationary_distribution, transition_matrix
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="monitorrank",
    family="metric",
    needs={"metrics", "topology"},
    paper=Paper("Root Cause Detection in a Service-Oriented Architecture", "SIGMETRICS", 2013),
)
def monitorrank(
    view: CaseView, rng: np.random.Generator, *, backward: float = 0.5, restart_probability: float = 0.15
) -> Ranking:
    """Services by the time that a walk over the call graph, drawn to latency like the front end's, spends in them.

    Ranks services: those of the call graph; one that neither calls nor is called is left out. A service's similarity
    is the absolute correlation, over the whole visible window, of the latency of the calls into it with the latency
    that users saw. From a service the walk steps to a callee with weight similarity of the callee, back to a caller
    with ``backward`` times the caller's, and stays by how much its own exceeds the best callee's; at each step it
    starts afresh with ``restart_probability``, in a service drawn by similarity. The front end has similarity 1, never
    keeps the walk and is never where it starts.
    Inputs: topology, spans or latency metrics, the front end's latency. Parameters: ``backward`` 0.5,
    ``restart_probability`` 0.15. Complexity: O(services^3 + rows x services), besides the call graph. Randomness: none,
    the walk's shares are computed. Source: Kim, Sumbaly, Shah, SIGMETRICS 2013.
    Deviations: its pseudo-anomaly clustering, which learns from past incidents which services an outside event moves
    together, is left out, as a case holds one incident. ``backward`` is the value of arXiv 2603.02057's run. A series
    that never moves has similarity 0. That run walked only around calls flagged beforehand, against the call
    direction, with a front end whose latency was the sum over its calls; here every service of the call graph takes
    part, as in the paper.
    """
    graph = build_call_graph(view)
    similarity = similarity_to_front_end(graph)
    weights = cause_walk_weights(graph.calls(), similarity, rho=backward)
    weights[graph.front_end, graph.front_end] = 0.0
    restart = similarity.copy()
    restart[graph.front_end] = 0.0
    called = np.union1d(graph.callers, graph.callees)
    weights, restart = weights[np.ix_(called, called)], restart[called]
    if restart.max() <= RESOLUTION:
        raise MethodError("no service's latency moves with the front end's")
    shares = stationary_distribution(transition_matrix(weights), restart, restart_probability=restart_probability)
    return Ranking.of_services({graph.services[i]: shares[k] for k, i in enumerate(called)})


def similarity_to_front_end(graph: CallGraph) -> np.ndarray:
    """(services,) absolute correlation of the latency of the calls into each with what users saw; the front end: 1."""
    similarity = np.abs(correlations(graph.service_latency, graph.front_end_latency[:, None])[:, 0])
    similarity[graph.front_end] = 1.0
    return similarity
