"""Salesforce CausalAI's root cause detection: the metrics that the fault itself, not another metric, changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_ndtr

from tasks.rca.deviation import require_windows
from tasks.rca.graph.partial_correlation import correlation_matrix, critical_correlation, partial_correlations
from tasks.rca.graph.skeleton import Independence, Tests, learn_skeleton
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.panel import build_panel
from tasks.rca.view import CaseView

_LARGEST_CORRELATION = 1 - 1e-12

Context = Literal["fault", "time"]


@method(
    name="causalai",
    family="metric",
    needs={"metrics"},
    paper=Paper(
        "Salesforce CausalAI Library: A Fast and Scalable Framework for Causal Analysis of Time Series and Tabular "
        "Data",
        "arXiv 2301.10859",
        2023,
    ),
)
def causalai(
    view: CaseView,
    rng: np.random.Generator,
    *,
    alpha: float = 0.001,
    max_conditions: int = 4,
    context: Context = "fault",
) -> Ranking:
    """Metrics adjacent, in a PC graph over all metrics, to a context variable that says when the fault is on.

    Nothing causes the context, so each of its neighbours is its child: a root cause. PC drops the link of a metric to
    the context once some other metrics separate the two (Fisher's z test of partial correlations).

    Ranks metrics; a service scores as its worst one. Score: -log10 of the largest p value among the tests that PC made
    of the link. Above -log10 ``alpha`` (3): a root cause. Below it: dropped, in the order of the p value that separated
    it. The library returns the root causes as a set; the scores are the p values that it computes for them, and the
    metrics below the line are listed because PC has tested them too. Inputs: metrics, inject time. Parameters:
    ``alpha`` 0.001 and ``max_conditions`` 4 (as arXiv 2603.02057 ran it; the library's defaults are 0.05 and 4);
    ``context``: ``fault`` is 0 before the inject time and 1 from it on (the domain index of the library), ``time`` is
    the clock (as arXiv 2603.02057 ran it, blind to the inject time). Complexity: exponential in ``max_conditions`` at
    worst; :mod:`tasks.rca.graph.skeleton` has its limits. Randomness: none. Source: Arpit et al., arXiv 2301.10859,
    which follows Ikram et al. (RCD), NeurIPS 2022.
    Deviations: the test is Fisher's z where the library takes Student's t; they agree in all but the smallest samples.
    Each level of PC works on the graph as it was before the level, for both sides of every pair (PC-stable). A test
    that can say nothing, as between copies of a column, separates nothing.
    """
    panel = build_panel(view)
    variable = _context(view, panel.abnormal, context)
    correlation = correlation_matrix(np.column_stack([variable, panel.values]))
    test = ContextTest(correlation, len(variable), alpha, np.full(len(correlation), np.inf))
    learn_skeleton(test, max_conditions=max_conditions)
    if max_conditions > 0:
        test.note(_tests_of_context_given_one(test))
    return Ranking.of_metrics(panel.scores(-_log10_p_value(test.smallest_z[1:])))


@dataclass(frozen=True)
class ContextTest(Independence):
    """A test that notes, in ``smallest_z`` (columns,), the least |z| of column 0, the context, with every other."""

    smallest_z: np.ndarray

    def independent(self, tests: Tests) -> Tests:
        self.note(tests)
        return super().independent(tests)

    def note(self, tests: Tests) -> None:
        of_context = (tests[0] == 0) | (tests[1] == 0)
        i, j, given = (part[of_context] for part in tests)
        size = given.shape[1]
        if not self.possible(size):
            return
        left = np.minimum(np.abs(partial_correlations(self.correlation, i, j, given)), _LARGEST_CORRELATION)
        np.fmin.at(self.smallest_z, i + j, np.arctanh(left) * np.sqrt(self.rows - size - 3))


def _tests_of_context_given_one(test: Independence) -> Tests:
    """The tests of the context given one metric, which :func:`learn_skeleton` makes without asking ``test``."""
    before = np.abs(test.correlation) >= critical_correlation(test.alpha, test.rows, 0)
    given = before[0] | before
    given[~before[0]] = given[:, 0] = False
    np.fill_diagonal(given, False)
    metric, condition = np.nonzero(given)
    return np.zeros_like(metric), metric, condition[:, None]


def _context(view: CaseView, abnormal: np.ndarray, context: Context) -> np.ndarray:
    """(rows,) the variable whose children are sought."""
    if context == "time":
        times = view.metrics.index
        if times[0] == times[-1]:
            raise MethodError("all metric rows are of one moment")
        return np.asarray((times - times[0]) / (times[-1] - times[0]), dtype=float)
    require_windows(*view.split())
    return abnormal.astype(float)


def _log10_p_value(z: np.ndarray) -> np.ndarray:
    """log10 of the two-sided p value of ``z`` >= 0, also where p is too small for a float."""
    return (log_ndtr(-z) + np.log(2)) / np.log(10)
