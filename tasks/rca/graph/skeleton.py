"""The skeleton (adjacent columns), the common part of PC and FCI.

Every pair starts adjacent. At level s = 0, 1, 2 ... a pair is taken apart if it is independent given some s neighbours
of either side. As in PC-stable (Colombo and Maathuis, "Order-Independent Constraint-Based Causal Structure Learning",
JMLR 2014) neighbours are those at the start of the level, so no result depends on the order of tests, and a whole level
is a few array operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

from tasks.rca.graph.partial_correlation import (
    critical_correlation,
    partial_correlations,
    small_given_one,
)
from tasks.rca.method import MethodError

MAX_COLUMNS = 500
"""Bounds memory (n^3 bytes) and the tests given no or one column (n^3): 4 s at 500 columns."""

MAX_TESTS = 50_000_000
"""Tests given two or more columns: about 15 s."""

_BATCH = 1 << 16

Tests = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(tests,) i, (tests,) j, (tests, size) conditioning columns."""


@dataclass(frozen=True)
class Independence:
    """The test of conditional independence: partial correlations of ``correlation`` (n, n), seen in ``rows`` samples.

    A test that can say nothing (too few rows, or a conditioning set that determines a column) never finds independence.
    """

    correlation: np.ndarray
    rows: int
    alpha: float

    def possible(self, size: int) -> bool:
        """Return whether there are enough rows to test given ``size`` columns."""
        return self.rows - size > 3

    def independent(self, tests: Tests) -> Tests:
        """Return the tests that found independence: p > alpha."""
        i, j, given = tests
        critical = critical_correlation(self.alpha, self.rows, given.shape[1])
        found = np.abs(partial_correlations(self.correlation, i, j, given)) < critical
        return i[found], j[found], given[found]


@dataclass(frozen=True)
class Skeleton:
    """Results of the tests over n columns. Pairs are symmetric.

    ``adjacent``: (n, n) bool. ``separated``: (n, n) bool, pairs separated by a test. ``separates``: (n, n, n) bool,
    [i, j, k] if k was in a set found to separate i and j.
    """

    adjacent: np.ndarray
    separated: np.ndarray
    separates: np.ndarray

    def record(self, tests: Tests) -> None:
        """Remove the pairs of ``tests``, which were found independent."""
        i, j, given = tests
        self.adjacent[i, j] = self.adjacent[j, i] = False
        self.separated[i, j] = self.separated[j, i] = True
        self.separates[i[:, None], j[:, None], given] = self.separates[j[:, None], i[:, None], given] = True


def require_few_columns(columns: int) -> None:
    """Raise :class:`MethodError` if there are more than ``MAX_COLUMNS``, before anything is computed of each pair."""
    if columns > MAX_COLUMNS:
        raise MethodError(f"{columns} metrics; this method stops at {MAX_COLUMNS}")


def learn_skeleton(test: Independence, *, max_conditions: int | None = None, max_tests: int = MAX_TESTS) -> Skeleton:
    """Learn the skeleton of PC-stable. ``max_conditions``: largest conditioning set.

    Raises:
        MethodError: more than ``MAX_COLUMNS`` columns, or a level that would bring the tests given two or more columns
            above ``max_tests``. Tests are counted, not timed, so every machine stops at the same point.
    """
    n = len(test.correlation)
    require_few_columns(n)
    adjacent = ~np.eye(n, dtype=bool)
    skeleton = Skeleton(adjacent, np.zeros((n, n), dtype=bool), np.zeros((n, n, n), dtype=bool))
    tests_made = 0
    for size in range(n - 1 if max_conditions is None else min(n - 1, max_conditions + 1)):
        before = adjacent.copy()
        degrees = before.sum(axis=1)
        if degrees.max() <= size or not test.possible(size):
            break
        if size == 1:
            _separate_given_one(skeleton, before, test)
            continue
        if size > 1:
            tests_made += count_tests(degrees, degrees, size)
            if tests_made > max_tests:
                raise MethodError(
                    f"{n} metrics so entangled that they need {tests_made:,} tests of independence given up to {size} "
                    f"others; this method stops at {max_tests:,}"
                )
        for tests in batched(_level(before, size)):
            skeleton.record(test.independent(tests))
    return skeleton


def count_tests(others: np.ndarray, pools: np.ndarray, size: int) -> int:
    """Tests of each x against ``others[x]`` of its pool of ``pools[x]`` columns, given ``size`` of the rest of it."""
    pairs = zip(others.tolist(), pools.tolist(), strict=True)
    return sum(partners * comb(pool - 1, size) for partners, pool in pairs if partners)


def _separate_given_one(skeleton: Skeleton, before: np.ndarray, test: Independence) -> None:
    """Level 1, where most of the tests are, without a list of them."""
    limit = critical_correlation(test.alpha, test.rows, 1)
    for x, found in enumerate(small_given_one(test.correlation, limit)):
        found &= before[x][:, None] & before[x]
        apart = found.any(axis=1)
        skeleton.adjacent[x, apart] = skeleton.adjacent[apart, x] = False
        skeleton.separated[x, apart] = skeleton.separated[apart, x] = True
        skeleton.separates[x] |= found
        skeleton.separates[:, x] |= found


def _level(adjacent: np.ndarray, size: int) -> Iterator[Tests]:
    """Yield all tests of neighbours i, j given ``size`` other neighbours of i."""
    if size == 0:
        i, j = np.nonzero(np.triu(adjacent))
        yield i, j, np.empty((len(i), 0), dtype=np.intp)
        return
    for x in range(len(adjacent)):
        neighbours = np.flatnonzero(adjacent[x])
        yield from conditioned(x, np.arange(len(neighbours)), neighbours, size)


def conditioned(x: int, others: np.ndarray, pool: np.ndarray, size: int) -> Iterator[Tests]:
    """Yield the tests of x and each of ``pool[others]`` given every ``size`` of ``pool`` without that other."""
    sets = combinations(len(pool) - 1, size)
    if not len(sets):
        return
    at_once = max(1, _BATCH // len(sets))
    for first in range(0, len(others), at_once):
        other = others[first : first + at_once, None, None]
        for start in range(0, len(sets), _BATCH):
            part = sets[start : start + _BATCH]
            given = pool[part + (part >= other)].reshape(-1, size)
            yield np.full(len(given), x), np.repeat(pool[other.ravel()], len(part)), given


def batched(pieces: Iterable[Tests]) -> Iterator[Tests]:
    """Yield the same tests in fewer, larger pieces."""
    waiting: list[Tests] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece[0])
        if count >= _BATCH:
            yield _joined(waiting)
            waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[Tests]) -> Tests:
    i, j, given = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return i, j, given


@lru_cache(maxsize=32)
def combinations(n: int, size: int) -> np.ndarray:
    """(n choose size, size) indices below n, ascending in each row."""
    table = np.arange(n, dtype=np.int16)[:, None] if size else np.empty((1, 0), dtype=np.int16)
    for _ in range(size - 1):
        last = table[:, -1]
        more = n - 1 - last
        before = np.cumsum(more, dtype=np.int64) - more
        table = np.repeat(table, more, axis=0)
        added = np.arange(len(table)) - np.repeat(before - last - 1, more)
        table = np.column_stack([table, added.astype(np.int16)])
    return table
