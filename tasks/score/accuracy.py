"""Scores of one ranking: as given, with what it leaves out in random order, and the exact means of random orders.

Definitions: docs/scores.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb, gcd
from types import MappingProxyType

import numpy as np

TOP = 5
SCORE_LABELS = {"ac1": "AC@1", "ac3": "AC@3", "ac5": "AC@5", "avg5": "Avg@5", "mrr": "MRR"}
SCORES = tuple(SCORE_LABELS)
LEADING_SCORE = "avg5"
COMPARED_SCORES = (LEADING_SCORE, "ac1", "mrr")
"""Scores by which methods and campaigns are compared; methods are ordered by the first."""
_EXACT_NODES = 512
_PANELS, _PANEL_NODES = 40, 32


def accuracy_at(k: int, truth_ranks: Iterable[int], truths: int) -> float:
    """Return AC@k: of the ``truths`` root causes, the share that is in the first ``k`` places, of those that could be.

    ``truth_ranks``: ranks (from 1) of the root causes that the ranking lists; one that it does not list is not found.
    """
    return sum(rank <= k for rank in truth_ranks) / min(k, truths)


def reciprocal_rank(truth_ranks: Iterable[int]) -> float:
    """Return 1 / rank of the first root cause in the ranking; 0 if it lists none."""
    return 1 / min(truth_ranks, default=float("inf"))


def ranking_scores(truth_ranks: Sequence[int], truths: int) -> dict[str, float]:
    """Return by name every score of one ranking, as given."""
    accuracy = [accuracy_at(k, truth_ranks, truths) for k in range(1, TOP + 1)]
    return _named(accuracy, reciprocal_rank(truth_ranks))


def tail_scores(truth_ranks: Sequence[int], absent: Sequence[int], listed: int, rest: int) -> dict[str, float]:
    """Return the exact mean of every score over all orders in which ``rest`` candidates can follow the ``listed``
    entries of a ranking.

    ``truth_ranks``: ranks of the root causes that it lists. ``absent``: for each of the others, how many of the
    ``rest`` name it (1 for a service; no candidate names two).
    """
    truths = len(truth_ranks) + len(absent)
    accuracy = []
    for k in range(1, TOP + 1):
        found = sum(rank <= k for rank in truth_ranks)
        accuracy.append((found + sum(_chance_of_a_hit(rest, size, k - listed) for size in absent)) / min(k, truths))
    mrr = reciprocal_rank(truth_ranks) if truth_ranks else _mean_reciprocal(listed, rest, sum(absent))
    return _named(accuracy, mrr)


@lru_cache(maxsize=4096)
def chance_scores(candidates: int, sizes: tuple[int, ...]) -> Mapping[str, float]:
    """Return the exact mean of every score over all orders of ``candidates``: an empty ranking with a random tail."""
    return MappingProxyType(tail_scores((), sizes, 0, candidates))


@lru_cache(maxsize=4096)
def column_chance_scores(truths: tuple[int, ...], others: tuple[int, ...]) -> Mapping[str, float]:
    """The exact mean of every score if columns are drawn one after the other and a service has the place in which its
    first column comes; services without a column follow in random order.

    ``truths``, ``others``: columns of each root cause and of each other candidate.

    Services come in the order of independent waiting times, exponential with their numbers of columns as rates: with
    u = exp(-time) the number of services before one with c columns is, given u, a sum of independent yes-or-no draws
    with probabilities 1 - u^cⱼ, so that every figure is the integral of a polynomial in u over [0, 1], which
    Gauss-Legendre quadrature gives exactly (beyond a degree of 1023, some 1000 columns without a common divisor: to at
    least 10 digits).
    """
    silent = sum(columns == 0 for columns in (*truths, *others))
    seen = [columns for columns in truths if columns]
    behind = [columns for columns in others if columns]
    absent = (1,) * (len(truths) - len(seen))
    tail = tail_scores((), absent, len(seen) + len(behind), silent) if absent else None
    hits = np.zeros(TOP)
    for i, columns in enumerate(seen):
        hits += _places(columns, [*seen[:i], *seen[i + 1 :], *behind])
    for k in range(1, TOP + 1):
        hits[k - 1] += sum(_chance_of_a_hit(silent, 1, k - len(seen) - len(behind)) for _ in absent)
    accuracy = [float(hits[k - 1]) / min(k, len(truths)) for k in range(1, TOP + 1)]
    mrr = _mean_reciprocal_of_first(sum(seen), behind) if seen or tail is None else tail["mrr"]
    return MappingProxyType(_named(accuracy, mrr))


def _places(columns: int, opponents: Sequence[int]) -> np.ndarray:
    """Return the probabilities that a service with ``columns`` is among the first k, for k = 1 to ``TOP``."""
    density, rates, log_u = _waiting(columns, opponents)
    before = np.zeros((TOP, len(log_u)))
    before[0] = 1
    for rate in rates:
        later = np.exp(rate * log_u)
        before[1:] = before[1:] * later + before[:-1] * (1 - later)
        before[0] *= later
    return np.cumsum(before @ density)


def _mean_reciprocal_of_first(columns: int, opponents: Sequence[int]) -> float:
    """Return the mean of 1 / place of the first of several services that have ``columns`` together.

    E[1 / (1 + K)], with K of ``opponents`` before it, is the integral of E[x^K] over x in [0, 1].
    """
    density, rates, log_u = _waiting(columns, opponents)
    missing, x_weight = _quadrature(len(opponents))
    x = 1 - missing
    product = np.ones((len(x), len(log_u)))
    for rate, count in Counter(rates).items():
        later = np.exp(rate * log_u)
        product *= (later + x[:, None] * (1 - later)) ** count
    return float(x_weight @ product @ density)


def _waiting(columns: int, opponents: Sequence[int]) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Return the weights with which a sum over the nodes is the mean of a function of u, the opponents' rates, and log
    u at the nodes."""
    common = gcd(columns, *opponents)
    own, rates = columns // common, [rate // common for rate in opponents]
    missing, weight = _quadrature(own - 1 + sum(rates))
    log_u = np.log1p(-missing)
    return weight * own * np.exp((own - 1) * log_u), rates, log_u


@lru_cache(maxsize=256)
def _quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights on [0, 1] for polynomials of this degree.

    A high degree is integrated in panels that halve towards 0, where 1 - u of a service with many columns is.
    """
    from scipy.special import roots_legendre

    if degree < 2 * _EXACT_NODES:
        nodes, weights = roots_legendre(degree // 2 + 1)
        return (nodes + 1) / 2, weights / 2
    nodes, weights = roots_legendre(_PANEL_NODES)
    ends = np.array([0.0, *0.5 ** np.arange(_PANELS - 1, -1, -1)])
    width = np.diff(ends)[:, None]
    return (ends[:-1, None] + width * (nodes + 1) / 2).ravel(), (width * weights / 2).ravel()


def _mean_reciprocal(listed: int, rest: int, named: int) -> float:
    """Return the mean of 1 / place of the first of ``named`` among ``rest`` shuffled behind ``listed`` others."""
    if named == 0:
        return 0.0
    orders = comb(rest, named)
    return sum(comb(rest - r, named - 1) / orders / (listed + r) for r in range(1, rest - named + 2))


def _chance_of_a_hit(candidates: int, size: int, k: int) -> float:
    """Return the probability that one of ``size`` candidates is among the first ``k``."""
    if k <= 0:
        return 0.0
    misses = comb(candidates - size, k)
    return 1.0 if misses == 0 else 1 - misses / comb(candidates, k)


def _named(accuracy: list[float], mrr: float) -> dict[str, float]:
    values = (accuracy[0], accuracy[2], accuracy[4], sum(accuracy) / TOP, mrr)
    return dict(zip(SCORES, values, strict=True))
