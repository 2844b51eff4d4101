"""Hierarchical, localized psi-PC around an F-node, the node that stands for the fault: the core of RCD.

Source: Ikram, Chakraborty, Mitra, Saini, Bagchi, Kocaoglu, "Root Cause Analysis of Failures in Microservices through
Causal Discovery", NeurIPS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import Literal

import numpy as np
from scipy.special import chdtrc, gammaln

from tasks.rca.features.panel import Panel
from tasks.rca.features.separation import separation_scores
from tasks.rca.graph.skeleton import combinations

ALPHA_STEP = 0.1
MAX_SAMPLES = 100_000_000
"""Tests times rows that one significance level of phase 2 may take: about 15 s."""

_POINTS = 100  # distinct points per column that k-means looks at
_CELLS = 1 << 22  # array elements per batch
_PADDING = -1

Order = Literal["random", "weakest_first"]


def fault_node_scores(
    panel: Panel,
    rng: np.random.Generator,
    *,
    bins: int,
    gamma: int,
    alpha: float,
    final_alpha: float,
    order: Order,
) -> np.ndarray:
    """Return (columns,) scores of hierarchical, localized psi-PC around an F-node, as :func:`tasks.rca.metric.rcd.rcd`
    says: parameters, scores and deviations are described there. O(columns x rows x 2^gamma)."""
    test = FNodeTest(discretise(panel.values, bins), panel.abnormal, bins)
    columns = len(panel.columns)
    score = np.zeros(columns)

    order_rng = rng if order == "random" else None
    alive, rounds = np.arange(columns), 0
    while len(alive):
        groups = _deal(rng.permutation(alive), gamma)
        found = attached_to_fault(test, groups, _first_level_with_a_child(test, groups, alpha), order_rng)
        dropped = (groups != _PADDING) & ~found.attached
        score[groups[dropped]] = separation_scores(rounds * gamma + found.largest_set, found.log_p_value)[dropped]
        before, alive, rounds = len(alive), np.sort(groups[found.attached]), rounds + 1
        if len(alive) <= gamma or len(alive) == before:
            break

    if len(alive):
        alive = rng.permutation(alive)
        score[alive] = rounds * gamma + _final_scores(test, alive, gamma, final_alpha, order_rng)
    return score


@dataclass(frozen=True)
class FNodeTest:
    """Chi-square tests of independence of a metric and the F-node.

    ``codes``: (columns, rows) bin of every sample, below ``bins``. ``abnormal``: (rows,) bool, the F-node.
    """

    codes: np.ndarray
    abnormal: np.ndarray
    bins: int

    @cached_property
    def marginal(self) -> np.ndarray:
        """(columns,) logarithms of the p values given nothing."""
        every = np.arange(len(self.codes))
        return self.log_p_values(every, every[:, None][:, :0])

    def log_p_values(self, columns: np.ndarray, given: np.ndarray) -> np.ndarray:
        """(tests,) natural logarithms of the p values of ``columns`` (tests,) given columns ``given`` (tests, size).

        The statistic and its degrees of freedom add up over the values of the conditioning columns; rows and columns of
        a table without samples count for none. No degree of freedom, no evidence: 0, that is p = 1.
        """
        rows = self.codes.shape[1]
        strata = self.bins ** given.shape[1]
        cells = 2 * self.bins * min(strata, rows)
        batch = max(1, _CELLS // max(rows, cells))
        parts = [
            self._log_p_values(columns[start : start + batch], given[start : start + batch])
            for start in range(0, len(columns), batch)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _log_p_values(self, columns: np.ndarray, given: np.ndarray) -> np.ndarray:
        tests, size = given.shape
        strata = self.bins**size
        stratum = np.repeat(np.arange(tests)[:, None], self.codes.shape[1], axis=1)
        for k in range(size):
            stratum = stratum * self.bins + self.codes[given[:, k]]
        test_of = np.repeat(np.arange(tests), strata) if strata <= self.codes.shape[1] else None
        if test_of is None:
            seen, stratum = np.unique(stratum, return_inverse=True)
            test_of = seen // strata
        cell = (stratum * 2 + self.abnormal) * self.bins + self.codes[columns]
        table = np.bincount(cell.ravel(), minlength=len(test_of) * 2 * self.bins).reshape(-1, 2, self.bins)
        statistic, freedom = _chi_square(table)
        return _log_chi_square_tail(
            np.bincount(test_of, statistic, minlength=tests), np.bincount(test_of, freedom, minlength=tests)
        )


def _chi_square(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's statistic and degrees of freedom of each (2, bins) table of counts."""
    of_row, of_column = table.sum(axis=2), table.sum(axis=1)
    total = of_row.sum(axis=1)
    expected = of_row[:, :, None] * of_column[:, None, :]
    share = np.divide(table.astype(float) ** 2, expected, out=np.zeros(table.shape), where=expected > 0)
    freedom = (np.count_nonzero(of_row, axis=1) - 1) * (np.count_nonzero(of_column, axis=1) - 1)
    return total * np.maximum(share.sum(axis=(1, 2)) - (total > 0), 0.0), np.where(total > 0, freedom, 0)


def _log_chi_square_tail(statistic: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """ln P(chi-square >= statistic), also where the probability itself is too small for a float."""
    half, shape = statistic / 2, np.maximum(freedom, 1) / 2
    with np.errstate(divide="ignore"):
        exact = np.log(chdtrc(np.maximum(freedom, 1), statistic))
        far = (shape - 1) * np.log(half) - half - gammaln(shape)
    return np.where(freedom > 0, np.where(np.isfinite(exact), exact, far), 0.0)


@dataclass(frozen=True)
class Attached:
    """Results of psi-PC for each member of each group; all (groups, members).

    ``attached``: bool, still attached to the F-node. ``log_p_value``: logarithm of the largest p value found.
    ``largest_set``: size of the largest set that it was tested given; of a separated one, the set that did it.
    """

    attached: np.ndarray
    log_p_value: np.ndarray
    largest_set: np.ndarray


def attached_to_fault(
    test: FNodeTest,
    groups: np.ndarray,
    level: np.ndarray,
    rng: np.random.Generator | None = None,
    *,
    max_conditions: int | None = None,
) -> Attached:
    """Localized psi-PC of many groups at once: which members stay attached to the F-node.

    ``groups``: (groups, members) columns, -1 for none. ``level``: (groups,) significance level of each group. Members
    are tested given those still attached: with ``rng`` in an order drawn anew for each size of set, without it from the
    weakest link to the strongest, equally strong ones in the order in which they come.
    """
    count, members = groups.shape
    each = np.arange(count)
    log_level = np.log(level)
    largest = np.where(groups == _PADDING, 0.0, test.marginal[groups])
    attached = largest <= log_level[:, None]
    largest_set = np.zeros(groups.shape, dtype=int)
    turn = np.argsort(-largest, axis=1, kind="stable")
    deepest = members - 1 if max_conditions is None else min(members - 1, max_conditions)
    for size in range(1, deepest + 1):
        if not (attached.sum(axis=1) > size).any():
            break
        if rng is not None:
            turn = rng.permuted(turn, axis=1)
        for rank in range(members):
            member = turn[:, rank]
            group = np.flatnonzero(attached[each, member] & (attached.sum(axis=1) > size))
            if not len(group):
                continue
            member = member[group]
            others = np.argsort(np.arange(members) == member[:, None], axis=1, kind="stable")[:, :-1]
            sets = others[:, combinations(members - 1, size)]
            row, column = np.nonzero(attached[group[:, None, None], sets].all(axis=2))
            given = groups[group[row, None], sets[row, column]]
            found = np.full(sets.shape[:2], -np.inf)
            found[row, column] = test.log_p_values(groups[group, member][row], given)
            worst = found.max(axis=1)
            largest[group, member] = np.maximum(largest[group, member], worst)
            largest_set[group, member] = size
            attached[group, member] = worst <= log_level[group]
    return Attached(attached, largest, largest_set)


def _final_scores(
    test: FNodeTest, survivors: np.ndarray, gamma: int, alpha: float, rng: np.random.Generator | None
) -> np.ndarray:
    """(survivors,) scores of phase 2: up to ``gamma`` for those never attached, above it for the others."""
    levels = np.arange(alpha, 1, ALPHA_STEP)
    largest_set = _feasible_set(len(survivors), test.codes.shape[1], gamma - 1)
    scores, ordered = np.zeros(len(survivors)), np.zeros(len(survivors), dtype=bool)
    for passed, level in enumerate(levels):
        found = attached_to_fault(test, survivors[None], np.array([level]), rng, max_conditions=largest_set)
        stage = np.where(found.attached[0], gamma + len(levels) - 1 - passed, found.largest_set[0])
        scores = np.where(ordered, scores, separation_scores(stage, found.log_p_value[0]))
        ordered |= found.attached[0]
        if ordered.all():
            break
    return scores


def _feasible_set(members: int, rows: int, most: int) -> int:
    """Return the largest size of conditioning set, up to ``most``, whose tests take at most ``MAX_SAMPLES``."""
    tests = 0
    for size in range(1, most + 1):
        tests += members * comb(members - 1, size)
        if tests * rows > MAX_SAMPLES:
            return size - 1
    return most


def _deal(columns: np.ndarray, gamma: int) -> np.ndarray:
    """(groups, gamma) columns in the order given, the last group filled up with padding."""
    groups = np.full((-(-len(columns) // gamma), gamma), _PADDING)
    groups.ravel()[: len(columns)] = columns
    return groups


def _first_level_with_a_child(test: FNodeTest, groups: np.ndarray, alpha: float) -> np.ndarray:
    """(groups,) lowest significance level at which a member of the group is attached to the F-node.

    Further tests never cut off the last one, as they need another attached metric to condition on.
    """
    levels = np.arange(alpha, 1, ALPHA_STEP)
    marginal = np.where(groups == _PADDING, 0.0, test.marginal[groups])
    enough = np.searchsorted(np.log(levels), marginal.min(axis=1))
    return levels[np.minimum(enough, len(levels) - 1)]


def discretise(values: np.ndarray, bins: int) -> np.ndarray:
    """(columns, rows) bin, from 0 up, of each of the (rows, columns) ``values``.

    The bins of a column are the best k-means clusters of its values, weighted quantile groups if there are more than
    100. A column with fewer distinct values than ``bins`` uses fewer bins.
    """
    rows, columns = values.shape
    ordered = np.sort(values, axis=0)
    groups = min(rows, _POINTS)
    starts = np.arange(groups) * rows // groups
    weight = np.diff(np.append(starts, rows))
    points = np.add.reduceat(ordered, starts, axis=0) / weight[:, None]
    codes = np.zeros((columns, rows), dtype=np.int64)
    batch = max(1, _CELLS // groups**2)
    for start in range(0, columns, batch):
        block = slice(start, start + batch)
        for edge in _best_edges(points[:, block].T, weight, bins):
            codes[block] += edge[:, None] <= values[:, block].T
    return codes


def _best_edges(points: np.ndarray, weight: np.ndarray, bins: int) -> list[np.ndarray]:
    """Bin edges of each row of (columns, points) ``points``, ascending, that minimise the variance within bins."""
    columns, count = points.shape
    bins = min(bins, count)
    zero = np.zeros((columns, 1))
    total = np.concatenate([zero, np.cumsum(points * weight, axis=1)], axis=1)
    square = np.concatenate([zero, np.cumsum(points**2 * weight, axis=1)], axis=1)
    mass = np.concatenate([[0.0], np.cumsum(weight)])

    # within[:, a, b]: squared error of one bin of the points a to b
    span = mass[None, 1:] - mass[:-1, None]
    valid = span > 0
    within = (total[:, None, 1:] - total[:, :-1, None]) ** 2 / np.where(valid, span, 1.0)
    within = np.where(valid, square[:, None, 1:] - square[:, :-1, None] - within, np.inf)

    best = within[:, 0, :]
    first_of_bin = []
    for _ in range(bins - 1):
        before = np.concatenate([np.full((columns, 1), np.inf), best[:, :-1]], axis=1)
        error = before[:, :, None] + within
        first = np.argmin(error, axis=1)
        best = np.take_along_axis(error, first[:, None, :], axis=1)[:, 0]
        first_of_bin.append(first)

    row, last = np.arange(columns), np.full(columns, count - 1)
    edges = []
    for first in reversed(first_of_bin):
        start = first[row, last]
        edges.append((points[row, start - 1] + points[row, start]) / 2)
        last = start - 1
    return edges[::-1]
