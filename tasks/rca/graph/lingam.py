"""ICA-LiNGAM: a linear causal graph from the non-Gaussianity of its noise."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import linalg, optimize, special

from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.method import MethodError

MAX_COLUMNS = 500
_TINY = 1e-100


def learn_lingam(
    values: np.ndarray, rng: np.random.Generator, *, alpha: float = 0.05, max_iterations: int = 1000
) -> CausalGraph:
    """Learn a directed acyclic graph by ICA-LiNGAM.

    ``values``: (rows, columns) standardised, without gaps. Independent component analysis (FastICA, at most
    ``max_iterations``) finds the unmixing matrix; its rows are matched to columns, the causal order is the one that
    needs the fewest of the weakest coefficients set to 0, and an edge stays where the coefficient of a cause differs
    from 0 in the regression of a column on all columns before it (t test at ``alpha``). ``rng`` gives the start of
    FastICA, whose result is a local optimum. O(iterations x columns^2 x (rows + columns)).

    Source: Shimizu, Hoyer, Hyvarinen, Kerminen, "A Linear Non-Gaussian Acyclic Model for Causal Discovery", JMLR 2006.
    A column that is a linear combination of others has no noise of its own, which the model excludes: it gets no edge.
    The order is found by bisection, which gives the paper's: setting more coefficients to 0 never closes a cycle.

    Raises:
        MethodError: not more rows than columns (the unmixing matrix is not defined), or more than ``MAX_COLUMNS``.
    """
    rows, n = values.shape
    if rows <= n:
        raise MethodError(f"{n} metrics, {rows} rows; LiNGAM needs more rows than metrics")
    if n > MAX_COLUMNS:
        raise MethodError(f"{n} metrics; LiNGAM stops at {MAX_COLUMNS}")
    centred = values - values.mean(axis=0)
    kept = _independent_columns(centred)
    directed = np.zeros((n, n), dtype=bool)
    if len(kept) > 1:
        unmixing = _unmixing_matrix(centred[:, kept], rng, max_iterations)
        order = _causal_order(_coefficients(unmixing))
        ordered = kept[order]
        directed[np.ix_(ordered, ordered)] = _significant(centred[:, ordered], alpha)
    return CausalGraph.of_directed(directed)


def _independent_columns(centred: np.ndarray) -> np.ndarray:
    """Ascending indices of a largest set of columns of which none is a linear combination of others."""
    triangle, pivots = linalg.qr(centred, mode="r", pivoting=True)
    size = np.abs(np.diagonal(triangle))
    return np.sort(pivots[: len(size)][size > RESOLUTION * size[0]])


def _unmixing_matrix(centred: np.ndarray, rng: np.random.Generator, max_iterations: int) -> np.ndarray:
    """W of s = W x, (columns, columns), with components s as independent as FastICA can make them."""
    from sklearn.decomposition import FastICA

    rows, n = centred.shape
    left, size, right = np.linalg.svd(centred, full_matrices=False)
    ica = FastICA(whiten=False, w_init=rng.standard_normal((n, n)), max_iter=max_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: the best found so far is the answer
        ica.fit(left * np.sqrt(rows))
    return ica.components_ @ (right * np.sqrt(rows) / size[:, None])


def _coefficients(unmixing: np.ndarray) -> np.ndarray:
    """B of x = B x + e, [effect, cause], from an unmixing matrix whose rows come in any order and scale."""
    component, column = optimize.linear_sum_assignment(1 / np.maximum(np.abs(unmixing), _TINY))
    matched = np.empty_like(unmixing)
    matched[column] = unmixing[component]
    return np.eye(len(matched)) - matched / np.diagonal(matched)[:, None]


def _causal_order(coefficients: np.ndarray) -> np.ndarray:
    """Columns, causes first, after setting to 0 as few of the weakest coefficients as make them acyclic."""
    n = len(coefficients)
    weakest_first = np.argsort(np.abs(coefficients), axis=None, kind="stable")
    rank = np.argsort(weakest_first).reshape(n, n)
    cyclic, acyclic = n * (n + 1) // 2 - 1, n * n
    while acyclic - cyclic > 1:
        middle = (cyclic + acyclic) // 2
        if _topological_order(rank >= middle) is None:
            cyclic = middle
        else:
            acyclic = middle
    order = _topological_order(rank >= acyclic)
    assert order is not None
    return order


def _topological_order(edges: np.ndarray) -> np.ndarray | None:
    """Order ``edges`` [effect, cause] with causes first, lower indices first where several may come; None if cyclic."""
    missing = edges.sum(axis=1)
    order = np.empty(len(edges), dtype=int)
    for i in range(len(order)):
        ready = int(np.argmin(missing))
        if missing[ready] > 0:
            return None
        order[i] = ready
        missing -= edges[:, ready]
        missing[ready] = len(edges) + 1
    return order


def _significant(ordered: np.ndarray, alpha: float) -> np.ndarray:
    """[cause, effect]: the cause's coefficient differs from 0 when a column is regressed on all columns before it.

    One QR decomposition holds all regressions: the leading blocks of R belong to the leading columns, and the leading
    blocks of its inverse are their inverses.
    """
    rows, n = ordered.shape
    triangle = np.linalg.qr(ordered, mode="r")
    inverse = linalg.solve_triangular(triangle, np.eye(n))
    slopes = np.triu(inverse @ np.triu(triangle, 1), 1)
    variance = np.zeros((n, n))
    variance[:, 1:] = np.cumsum(inverse**2, axis=1)[:, :-1]
    freedom = rows - 1 - np.arange(n)
    noise = np.diagonal(triangle) ** 2 / freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(slopes) / np.sqrt(variance * noise)
    return np.triu(2 * special.stdtr(freedom, -statistic) < alpha, 1)
