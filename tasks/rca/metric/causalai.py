"""Salesforce CausalAI's root cause detection: the metrics that the fault itself, not another metric, changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_ndtr

from tasks.rca.features.deviation import require_windows
from tasks.rca.features.panel import build_panel
from tasks.rca.features.separation import separation_scores
from tasks.rca.graph.partial_correlation import correlation_matrix, critical_correlation, partial_correlations
from tasks.rca.graph.skeleton import Independence, Tests, learn_skeleton, require_few_columns
from tasks.rca.method import MethodError, Paper, Ranking, method
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

    Ranks metrics; a service scores as its worst one. Score: one point for each size of conditioning set that the metric
    survived, so ``max_conditions`` + 1 for a root cause, and L / (1 + L) with L = -ln of the largest p value among the
    tests of its link. The library returns the root causes as a set. The p values order them; metrics that PC dropped
    follow, those that took a larger set to be separated first. Inputs: metrics, inject time. Parameters:
    ``alpha`` 0.001 and ``max_conditions`` 4 (as arXiv 2603.02057 ran it; the library's defaults are 0.05 and 4);
    ``context``: ``fault`` is 0 before the inject time and 1 from it on (the domain index of the library), ``time`` is
    the clock (as arXiv 2603.02057 ran it, blind to the inject time). Complexity: exponential in ``max_conditions`` at
    worst; :mod:`tasks.rca.graph.skeleton` has its limits. Randomness: none. Source: Arpit et al., arXiv 2301.10859,
    which follows Ikram et al. (RCD), NeurIPS 2022.
    Deviations: the test is Fisher's z where the library takes Student's t; they agree in all but the smallest samples.
    Conditioning sets are neighbours of either end of a link (the library: of the metric only), as they were before the
    level (PC-stable). A test that can say nothing, as between copies of a column, separates nothing.
    """
    panel = build_panel(view)
    require_few_columns(len(panel.columns))
    variable = _context(view, panel.abnormal, context)
    correlation = correlation_matrix(np.column_stack([variable, panel.values]))
    columns = len(correlation)
    test = ContextTest(correlation, len(variable), alpha, np.full(columns, np.inf), np.zeros(columns, dtype=int))
    skeleton = learn_skeleton(test, max_conditions=max_conditions)
    if max_conditions > 0:
        test.note(_tests_of_context_given_one(test))
    survived = np.where(skeleton.adjacent[0], max_conditions + 1, test.largest_set)
    return Ranking.of_metrics(panel.scores(separation_scores(survived[1:], _log_p_values(test.smallest_z[1:]))))


@dataclass(frozen=True)
class ContextTest(Independence):
    """A test that notes what it found of the links of column 0, the context, with every other.

    ``smallest_z``: (columns,) least |z|. ``largest_set``: (columns,) size of the largest conditioning set.
    """

    smallest_z: np.ndarray
    largest_set: np.ndarray

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
        np.maximum.at(self.largest_set, i + j, size)


def _tests_of_context_given_one(test: Independence) -> Tests:
    """Return the tests of the context given one metric, which :func:`learn_skeleton` makes without ``test``."""
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


def _log_p_values(z: np.ndarray) -> np.ndarray:
    """ln of the two-sided p values of ``z`` >= 0, also where p is too small for a float."""
    return log_ndtr(-z) + np.log(2)
