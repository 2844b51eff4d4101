"""Partial correlations in batches, and tests of conditional independence of normal variables.

Telemetry is full of columns that are sums or copies of others, so both kinds of degeneracy have a plain answer:

* redundant conditioning columns add nothing and are passed over;
* a column that its conditioning set determines leaves nothing to correlate: the partial correlation is NaN, "nothing
  can be said", and callers must not read it as independence. (Were it independence, each of two copies of a column
  would cut the other one off from everything else.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from tasks.rca.features.panel import standardise

DETERMINED = 1e-9
"""Share of a column's variance left by its conditioning set below which the set determines it."""

_BATCH = 8192


def correlation_matrix(values: np.ndarray) -> np.ndarray:
    """(columns, columns) Pearson correlations of (rows, columns); a column that never moves correlates with none."""
    standard, _ = standardise(values)
    correlation = np.clip(standard.T @ standard / max(len(values), 1), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def partial_correlations(correlation: np.ndarray, i: np.ndarray, j: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Correlation of columns ``i[t]`` and ``j[t]`` given the columns ``given[t]``, for every test t.

    ``correlation``: (n, n). ``i``, ``j``: (tests,) column indices. ``given``: (tests, size) column indices other than i
    and j; size 0 allowed. Returns (tests,) within [-1, 1]; NaN where ``given`` determines i or j. Works through the
    tests in batches of bounded memory. O(tests x size^3).
    """
    i, j, given = (np.asarray(indices, dtype=np.intp) for indices in (i, j, given))
    result = np.empty(len(i))
    for start in range(0, len(i), _BATCH):
        batch = slice(start, start + _BATCH)
        result[batch] = _eliminate(correlation, [*given[batch].T, i[batch], j[batch]])
    return result


def small_given_one(correlation: np.ndarray, limit: float) -> Iterator[np.ndarray]:
    """Yield, for each column i, whether i and j given k correlate by less than ``limit``, as (n, n) bool [j, k].

    Equals comparing :func:`partial_correlations` with ``limit``, but ten times as fast. False where the correlation is
    undefined, as for k = i and k = j.
    """
    left = 1.0 - correlation**2
    left[left <= DETERMINED] = 0.0
    for with_i, left_i in zip(correlation, left, strict=True):
        between = correlation * with_i
        between -= with_i[:, None]
        between *= between
        yield between < left * (limit**2 * left_i)


def critical_correlation(alpha: float, rows: int, size: int) -> float:
    """Return the absolute partial correlation whose p value is ``alpha``: a smaller one has p > alpha.

    Negative if there are too few samples, so that no correlation is smaller.
    """
    if rows - size - 3 <= 0:
        return -1.0
    return float(np.tanh(-ndtri(alpha / 2) / np.sqrt(rows - size - 3)))


def _eliminate(correlation: np.ndarray, indices: list[np.ndarray]) -> np.ndarray:
    """Cholesky-like elimination of all ``indices`` but the last two, over a whole batch at once."""
    last = len(indices)
    n = len(correlation)
    flat = correlation.ravel()
    covariance = [
        [np.ones(len(indices[0])) if a == b else flat[indices[a] * n + indices[b]] for b in range(a, last)]
        for a in range(last)
    ]
    for pivot in range(last - 2):
        variance, *row = covariance[pivot]
        tells = variance > DETERMINED
        inverse = np.divide(1.0, variance, out=np.zeros_like(variance), where=tells)
        for a, of_a in enumerate(row):
            factor = of_a * inverse
            for b, of_b in enumerate(row[a:]):
                covariance[pivot + 1 + a][b] -= factor * of_b
    (variance_i, between), (variance_j,) = covariance[-2:]
    left = (variance_i > DETERMINED) & (variance_j > DETERMINED)
    scale = np.sqrt(variance_i * variance_j, out=np.ones_like(between), where=left)
    return np.where(left, np.clip(between / scale, -1.0, 1.0), np.nan)
