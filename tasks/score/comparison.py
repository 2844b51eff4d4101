"""Tests whether differences between methods are more than luck. Definitions and limits: docs/scores.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

_EXACT_CASES = 16
_DRAWS = 2**16
_CHUNK = 2**15
_DECIMALS = 9
_ROUNDING = 1e-9
"""Differences of means that are closer than this are equal: they are sums of a few fractions, in another order."""


def sign_flip_p_values(differences: np.ndarray, *, seed: int, label: str) -> np.ndarray:
    """Two-sided p value of the mean of each column of ``differences`` (cases, columns), under "the sign of a case's
    difference is a coin toss".

    Exact, over all 2^cases signs, up to 16 cases; else estimated from 65,536 draws, which depend on ``seed`` and
    ``label`` only, as (1 + as extreme) / (1 + draws), which is never too small on average.

    Source: Fisher's randomisation test; Phipson and Smyth, "Permutation P-values Should Never Be Zero", Statistical
    Applications in Genetics and Molecular Biology, 2010.
    """
    cases, columns = differences.shape
    observed = np.abs(differences.sum(axis=0))
    as_extreme = np.zeros(columns, dtype=np.int64)
    total = 0
    enough = observed - _ROUNDING * max(cases, 1)
    with threadpool_limits(1, "blas"):  # the products are small: more threads would mostly wait for each other
        for signs in _signs(cases, max(1, _CHUNK // max(cases, columns, 1)), seed, label):
            as_extreme += np.count_nonzero(np.abs(signs @ differences) >= enough, axis=0)
            total += len(signs)
    exact = cases <= _EXACT_CASES
    return as_extreme / total if exact else (1 + as_extreme) / (1 + total)


def mcnemar_p_values(differences: np.ndarray) -> np.ndarray:
    """Two-sided exact p value per column of ``differences`` (cases, columns) of two outcomes that are 0 or 1: of the
    cases in which one method was right and the other wrong, as uneven a split or more under "a coin toss".

    Source: McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
    Psychometrika, 1947, with the binomial distribution in place of chi-square.
    """
    from scipy.stats import binom

    wins, losses = (differences > 0).sum(axis=0), (differences < 0).sum(axis=0)
    tail = binom.cdf(np.minimum(wins, losses), wins + losses, 0.5)
    return np.minimum(2 * tail, 1.0)


def _signs(cases: int, rows_at_once: int, seed: int, label: str) -> Iterator[np.ndarray]:
    """Return rows of -1 and 1: all of them with a first sign of 1 (the others only mirror them), or draws."""
    if cases <= _EXACT_CASES:
        numbers = np.arange(2 ** max(cases - 1, 0))
        for start in range(0, len(numbers), rows_at_once):
            chunk = numbers[start : start + rows_at_once]
            yield 1.0 - 2.0 * (chunk[:, None] >> np.arange(cases) & 1)
        return
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}|signs|{label}".encode()).digest(), "little"))
    for start in range(0, _DRAWS, rows_at_once):
        yield rng.integers(0, 2, size=(min(rows_at_once, _DRAWS - start), cases)) * 2.0 - 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """p values corrected for how many there are, so that the chance of one false alarm among all stays below the level.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Mean over cases of each method's place (1: best; ties share the mean of their places); ``values``: (cases,
    methods), higher is better."""
    return pd.DataFrame(np.round(values, _DECIMALS)).rank(axis=1, ascending=False).mean(axis=0).to_numpy()


def friedman_p_value(values: np.ndarray) -> float:
    """Return the p value of "no method of ``values`` (cases, methods) tends to rank better than another".

    NaN for fewer than three methods or two cases, or if all tie.

    Source: Friedman 1937 in the form of Iman and Davenport 1980, as Demsar, "Statistical Comparisons of Classifiers
    over Multiple Data Sets", JMLR 2006, recommends; corrected for ties.
    """
    cases, methods = values.shape
    if methods < 3 or cases < 2:
        return float("nan")
    rounded = np.round(values, _DECIMALS)
    if (rounded == rounded[:, :1]).all():
        return float("nan")
    from scipy import stats

    chi_square = float(stats.friedmanchisquare(*rounded.T).statistic)
    most = cases * (methods - 1)
    if chi_square >= most * (1 - _ROUNDING):
        return 0.0
    f = (cases - 1) * chi_square / (most - chi_square)
    return float(stats.f.sf(f, methods - 1, (methods - 1) * (cases - 1)))


def cliques(ranks: np.ndarray, significant: np.ndarray) -> list[list[int]]:
    """Return groups of methods, neighbours in the order of ``ranks``, of which no two differ significantly: the bars of
    a critical-difference plot. Groups of one, and groups within others, are left out."""
    order = np.argsort(ranks, kind="stable")
    found: list[list[int]] = []
    reach = 0
    for first in range(len(order)):
        end = first + 1
        while end < len(order) and not significant[order[end], order[first:end]].any():
            end += 1
        if end - first > 1 and end > reach:
            found.append([int(i) for i in order[first:end]])
            reach = end
    return found
