"""Granger causality between every pair of columns, by closed-form least squares on all pairs at once."""

from __future__ import annotations

import numpy as np
from scipy import special

from tasks.rca.features.rows import too_few_rows, with_past
from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.method import MethodError

MAX_COLUMNS = 6000
"""Bounds time and memory, which grow with the square: 5 s and 190 MiB for 2,500 columns, some 30 s and 1.1 GiB here."""

_PAIRS_PER_CHUNK = 100_000
_COLLINEAR = 1e-10
"""Share of a variable's sum of squares below which the rest of it is rounding noise."""


def learn_granger(
    values: np.ndarray, *, max_lag: int = 3, alpha: float = 0.05, ticks: np.ndarray | None = None
) -> CausalGraph:
    """Learn i -> j where the past of column i improves the prediction of j beyond j's own past, at level ``alpha``.

    ``values``: (rows, columns) standardised, without gaps; ``ticks``: (rows,) number of the sampling step of each row
    (default: no hole between rows). A row with a hole among the ``max_lag`` steps before it is no observation. Each
    ordered pair has one test: the F test that the coefficients of all ``max_lag`` lags of i are 0, in a regression of j
    on a constant, its own ``max_lag`` lags and those of i. Feedback (both ways) is possible. Tests are pairwise, as in
    the bivariate definition, and not corrected for their number. Deterministic. O(rows x columns^2 x max_lag^2) in
    bounded memory beyond the (columns, columns) result.

    Source: Granger, "Investigating Causal Relations by Econometric Models and Cross-spectral Methods", Econometrica,
    1969. The columns are taken as they are: neither differenced nor tested for stationarity.

    Raises:
        MethodError: too few rows for the regression, or more than ``MAX_COLUMNS`` columns.
    """
    return CausalGraph.of_directed(granger_p_values(values, max_lag=max_lag, ticks=ticks) < alpha)


def granger_p_values(values: np.ndarray, *, max_lag: int, ticks: np.ndarray | None = None) -> np.ndarray:
    """(columns, columns) p values [cause, effect] of the F test of :func:`learn_granger`; 1 on the diagonal.

    Lags that say nothing new (constant or collinear) do not count as parameters. A column that its own past predicts
    without error has no cause.

    Raises:
        MethodError: too few rows for the regression, or too many columns.
    """
    rows, n = values.shape
    if n > MAX_COLUMNS:
        raise MethodError(f"{n} metrics; Granger causality of all pairs stops at {MAX_COLUMNS}")
    ticks = np.arange(rows) if ticks is None else ticks
    problem = too_few_rows(ticks, max_lag, 2 * max_lag + 2, f"Granger causality with {max_lag} lags")
    if problem:
        raise MethodError(problem)
    now = with_past(ticks, max_lag)
    lagged = _centred(np.stack([values[now - lag] for lag in range(1, max_lag + 1)]))
    own, own_rank = _orthonormal(lagged)
    unexplained = _centred(values[now])
    total = np.sum(unexplained**2, axis=0)
    for basis in own:
        unexplained = unexplained - basis * np.sum(basis * unexplained, axis=0)
    restricted = np.sum(unexplained**2, axis=0)
    flat = lagged.transpose(1, 0, 2).reshape(len(now), -1)
    gram = np.einsum("ltj,mtj->jlm", lagged, lagged)
    p_values = np.ones((n, n))
    chunk = max(1, _PAIRS_PER_CHUNK // n)
    for start in range(0, n, chunk):
        effects = slice(start, start + chunk)
        explained, rank = _explained(own[:, :, effects], unexplained[:, effects], flat, gram)
        freedom = len(now) - 1 - own_rank[effects, None] - rank
        full = np.maximum(restricted[effects, None] - explained, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (explained / rank) / (full / freedom)
        told = (rank > 0) & (restricted > _COLLINEAR * total)[effects, None]
        p_values[:, effects] = np.where(told, special.fdtrc(np.maximum(rank, 1), freedom, statistic), 1.0).T
    np.fill_diagonal(p_values, 1.0)
    return p_values


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=-2, keepdims=True)


def _orthonormal(lagged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis of each column's own lags, (lags, rows, columns), and its rank per column.

    A lag that depends on the ones before it becomes a zero vector.
    """
    basis = np.zeros_like(lagged)
    for k, lag in enumerate(lagged):
        rest = lag
        for _ in range(2):  # once more removes what rounding left
            for earlier in basis[:k]:
                rest = rest - earlier * np.sum(earlier * rest, axis=0)
        size = np.sum(rest**2, axis=0)
        new = size > _COLLINEAR * np.sum(lag**2, axis=0)
        basis[k] = np.where(new, rest, 0.0) / np.sqrt(np.where(new, size, 1.0))
    return basis, np.count_nonzero(np.any(basis != 0, axis=1), axis=0)


def _explained(
    own: np.ndarray, unexplained: np.ndarray, flat: np.ndarray, gram: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much of each effect the lags of each cause explain beyond the effect's own lags: sum of squares and
    rank, both (effects, causes).

    ``own``: (lags, rows, effects) orthonormal own lags; ``unexplained``: (rows, effects) what they leave; ``flat``:
    (rows, lags x causes); ``gram``: (causes, lags, lags) inner products of each cause's lags.
    """
    lags, rows, effects = own.shape
    causes = len(gram)
    in_own = (own.transpose(0, 2, 1).reshape(-1, rows) @ flat).reshape(lags, effects, lags, causes)
    in_own = in_own.transpose(1, 3, 0, 2)
    rest = gram - np.swapaxes(in_own, -1, -2) @ in_own
    target = (unexplained.T @ flat).reshape(effects, lags, causes).transpose(0, 2, 1).copy()
    floor = _COLLINEAR * np.diagonal(gram, axis1=1, axis2=2)
    explained = np.zeros((effects, causes))
    rank = np.zeros((effects, causes), dtype=int)
    for k in range(lags):
        pivot = rest[:, :, k, k]
        new = pivot > floor[:, k]
        inverse = np.where(new, 1.0, 0.0) / np.where(new, pivot, 1.0)
        explained += target[:, :, k] ** 2 * inverse
        rank += new
        if k + 1 < lags:
            row = rest[:, :, k, k + 1 :] * inverse[:, :, None]
            target[:, :, k + 1 :] -= row * target[:, :, k, None]
            rest[:, :, k + 1 :, k + 1 :] -= row[..., :, None] * rest[:, :, k, None, k + 1 :]
    return explained, rank
