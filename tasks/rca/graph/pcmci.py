"""PCMCI with partial correlations: which metric leads which, and by how many steps.

Source: Runge, Nowack, Kretschmer, Flaxman, Sejdinovic, "Detecting and quantifying causal associations in large
nonlinear time series datasets", Science Advances 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betainc

from tasks.rca.features.rows import too_few_rows, with_past
from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix, partial_correlations
from tasks.rca.method import MethodError

MAX_LAGGED_COLUMNS = 3300
MAX_OPERATIONS = 10_000_000_000

_NONE = -1
_BATCH = 4096


def learn_pcmci(
    values: np.ndarray,
    *,
    max_lag: int = 5,
    condition_alpha: float = 0.1,
    alpha: float = 0.05,
    same_step: bool = True,
    ticks: np.ndarray | None = None,
) -> CausalGraph:
    """Learn the links between the columns of (rows, columns) ``values`` by PCMCI, all lags merged.

    i -> j if i at some earlier step is linked to j now (both ways if so found). With ``same_step``, columns that are
    linked at lag 0 only have an undirected edge. ``ticks``: (rows,) number of the sampling step of each row (default:
    no hole between rows).

    Raises:
        MethodError: see :func:`pcmci_p_values`.
    """
    linked = pcmci_p_values(values, max_lag=max_lag, condition_alpha=condition_alpha, ticks=ticks) <= alpha
    leads: np.ndarray = np.any(linked[1:], axis=0)
    np.fill_diagonal(leads, False)
    together = linked[0] & ~(leads | leads.T) if same_step else np.zeros_like(leads)
    return CausalGraph(leads, together, np.zeros_like(leads))


def pcmci_p_values(
    values: np.ndarray, *, max_lag: int, condition_alpha: float, ticks: np.ndarray | None = None
) -> np.ndarray:
    """[lag, i, j]: p value of the link from column i, ``lag`` steps ago, to column j now; lags 0 to ``max_lag``.

    First a variant of PC finds, for each column, the lagged columns (its own included) that bear on it at level
    ``condition_alpha``: its parents. Then each link is tested given the parents of both of its ends (momentary
    conditional independence). 1 where a test can say nothing: too few rows, or an end that the condition determines;
    so merge copies of a column before. A row with a hole among the 2 x ``max_lag`` steps before it is not used. [0] is
    symmetric, with 1 in its diagonal. O(columns^2 x lags x parents^3).

    Raises:
        MethodError: too few rows for ``max_lag``, too many columns, or too many parents.
    """
    rows, columns = values.shape
    ticks = np.arange(rows) if ticks is None else ticks
    problem = too_few_rows(ticks, 2 * max_lag, 4, f"PCMCI with lags of up to {max_lag} steps")
    if problem:
        raise MethodError(problem)
    most = MAX_LAGGED_COLUMNS // (2 * max_lag + 1)
    if columns > most:
        raise MethodError(f"{columns} columns; with lags of up to {max_lag} steps this method stops at {most}")
    lagged = LaggedColumns.of(values, max_lag, ticks)
    parents = lagged.parents(condition_alpha)
    count = np.count_nonzero(parents != _NONE, axis=1)
    operations = int(np.sum((count[:, None] + count + 2) ** 3)) * (max_lag + 1) // 3
    if operations > MAX_OPERATIONS:
        raise MethodError(
            f"{columns} columns with {count.mean():.0f} lagged parents each need {operations:,} operations; "
            f"this method stops at {MAX_OPERATIONS:,}"
        )
    p_value = np.ones((max_lag + 1, columns, columns))
    for lag in range(max_lag + 1):
        tested = np.ones((columns, columns), dtype=bool)
        source, target = np.nonzero(np.triu(tested, k=1) if lag == 0 else tested)
        p_value[lag, source, target] = lagged.link_p_values(source, lag, target, parents)
    p_value[0] = np.minimum(p_value[0], p_value[0].T)
    return p_value


@dataclass(frozen=True)
class LaggedColumns:
    """Columns as they were 0 to twice ``max_lag`` steps ago, in the rows for which all of them are known: none looks
    back across a hole.

    Column c, ``lag`` steps ago, has index ``lag * columns + c`` in ``correlation``. All tests use the same ``rows``.
    """

    correlation: np.ndarray
    rows: int
    columns: int
    max_lag: int

    @classmethod
    def of(cls, values: np.ndarray, max_lag: int, ticks: np.ndarray | None = None) -> LaggedColumns:
        now = with_past(np.arange(len(values)) if ticks is None else ticks, 2 * max_lag)
        shifted = [values[now - lag] for lag in range(2 * max_lag + 1)]
        return cls(correlation_matrix(np.hstack(shifted)), len(now), values.shape[1], max_lag)

    def parents(self, alpha: float) -> np.ndarray:
        """(columns, most parents) indices of the parents of each column at lag 0, -1 for none; the strongest first.

        As in PC, but in round s a candidate is tested given the s strongest others only, and those that fail leave
        after the round.
        """
        target = np.arange(self.columns)[:, None]
        candidate = np.arange(self.columns, self.columns * (self.max_lag + 1))[None].repeat(self.columns, axis=0)
        strength = np.abs(self.correlation[target, candidate])
        strength[self._p_values(strength, 0) > alpha] = _NONE
        size = 0
        while True:
            left = np.count_nonzero(strength >= 0, axis=1)
            order = np.argsort(-strength, axis=1, kind="stable")[:, : left.max()]
            candidate, strength = (np.take_along_axis(of, order, axis=1) for of in (candidate, strength))
            size += 1
            if left.max() <= size or self.rows - size <= 2:
                return np.where(strength >= 0, candidate, _NONE)
            row, place = np.nonzero((strength >= 0) & (left[:, None] > size))
            strongest = candidate[row, : size + 1]
            others = np.where(np.arange(size) < place[:, None], strongest[:, :-1], strongest[:, 1:])
            found = np.abs(partial_correlations(self.correlation, row, candidate[row, place], others))
            weakest = np.fmin(strength[row, place], found)
            strength[row, place] = np.where(self._p_values(found, size) > alpha, _NONE, weakest)

    def link_p_values(self, source: np.ndarray, lag: int, target: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """(links,) p values of the links from the columns ``source``, ``lag`` steps ago, to the columns ``target``."""
        cause = source + lag * self.columns
        of_source = parents[source]
        given = np.hstack([parents[target], np.where(of_source == _NONE, _NONE, of_source + lag * self.columns)])
        given[given == cause[:, None]] = _NONE
        return self._p_values(*correlations_given(self.correlation, cause, target, given))

    def _p_values(self, correlation: np.ndarray, size: np.ndarray | int) -> np.ndarray:
        """Two-sided p values by Student's t; 1 where the correlation is NaN or there are too few rows."""
        freedom = np.asarray(self.rows - 2 - size)
        p_value = betainc(np.maximum(freedom, 1) / 2, 0.5, 1 - correlation**2)
        return np.where(np.isnan(correlation) | (freedom < 1), 1.0, p_value)


def correlations_given(
    correlation: np.ndarray, i: np.ndarray, j: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Partial correlations given sets of different sizes: (tests,), and (tests,) the size of each set.

    As :func:`partial_correlations`, but ``given`` (tests, most) may hold -1 for none, and a column twice.
    """
    given = -np.sort(-given, axis=1)
    given[:, 1:][given[:, 1:] == given[:, :-1]] = _NONE
    given = -np.sort(-given, axis=1)
    size = np.count_nonzero(given != _NONE, axis=1)
    result = correlation[i, j]
    by_size = np.argsort(size, kind="stable")
    by_size = by_size[np.searchsorted(size[by_size], 1) :]
    for start in range(0, len(by_size), _BATCH):
        tests = by_size[start : start + _BATCH]
        sets = given[tests, : size[tests[-1]]]
        filled = np.where(sets == _NONE, sets[:, :1], sets)  # a column given twice counts once
        result[tests] = partial_correlations(correlation, i[tests], j[tests], filled)
    return result, size
