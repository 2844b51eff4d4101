"""Smooth Traversal: the largest step in surprise from the causes of a service to the service itself."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.calls import build_call_graph
from tasks.rca.features.surprise import surprise_scores
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="smooth_traversal",
    family="metric",
    needs={"metrics", "topology"},
    paper=Paper("Root Cause Analysis of Outliers with Missing Structural Knowledge", "NeurIPS", 2025),
    beyond=True,
)
def smooth_traversal(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Services by how much more surprising they are than the most surprising service that they call.

    A service's surprise is that of its most surprising metric, as in ``score_ordering``. Failures pass from the called
    to the caller, so the causes of a service are those that it calls: its score is the smallest of the differences
    between its surprise and each of theirs, 0 if that is below 0, and its whole surprise if it calls nobody. Ranks
    services: the front end and those that it depends on; others are left out. Inputs: metrics, inject time, topology
    and spans (calls). Parameters: none. Complexity: O(columns x rows log rows + services^2). Randomness: none. Source:
    Orchard, Okati, Garrido Mejia, Blöbaum, Janzing, NeurIPS 2025 (arXiv 2406.05014), algorithm "Smooth Traversal".
    Deviations: the paper has one metric per node. A service without metrics is no node: those that depend on it have
    one known cause less. Calls in a circle stay, as the score does not need a graph without them.
    """
    best = surprise_scores(view).groupby(level=0).max().dropna()
    calls = build_call_graph(view).calls()
    known = np.array([service in best.index for service in view.services])
    surprise = np.array([best.get(service, np.nan) for service in view.services])
    concerned = _reached(calls, view.services.index(view.front_end)) & known
    if not concerned.any():
        raise MethodError("neither the front end nor a service that it depends on has metrics")
    scores = step_scores(surprise, calls & known)
    return Ranking.of_services({view.services[i]: scores[i] for i in np.flatnonzero(concerned)})


def step_scores(surprise: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """Return (services,) scores for ``surprise`` (services,) and ``calls`` (services, services) [caller, callee]."""
    largest = np.where(calls, surprise[None], -np.inf).max(axis=1, initial=-np.inf)
    return np.where(calls.any(axis=1), np.maximum(0.0, surprise - largest), surprise)


def _reached(calls: np.ndarray, start: int) -> np.ndarray:
    """Return (services,) whether a chain of calls leads from ``start`` to the service, ``start`` included."""
    reached = np.zeros(len(calls), dtype=bool)
    pending = [start]
    while pending:
        service = pending.pop()
        if not reached[service]:
            reached[service] = True
            pending.extend(np.flatnonzero(calls[service] & ~reached).tolist())
    return reached
