"""FCI: causal discovery when common causes may be unobserved.

Source: Spirtes, Meek, Richardson, "Causal Inference in the Presence of Latent Variables and Selection Bias", UAI 1995,
with the orientation rules of Zhang, "On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias", Artificial Intelligence 2008.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.pc import colliders, double_triangle, linked
from tasks.rca.graph.skeleton import (
    Independence,
    Skeleton,
    Tests,
    batched,
    conditioned,
    count_tests,
    learn_skeleton,
    require_few_columns,
)

log = logging.getLogger(__name__)


MAX_TESTS_BEYOND_NEIGHBOURS = 10_000_000
"""Tests given Possible-D-SEP: about 4 s."""


def learn_fci(values: np.ndarray, *, alpha: float = 0.05) -> CausalGraph:
    """Learn the graph of FCI with Fisher's z test of partial correlations.

    ``values``: (rows, columns) without NaN. ``alpha``: a pair is separated at p > alpha.

    Of FCI's marks, ``-->`` is directed and ``o->`` possibly directed; ``o-o`` and ``<->`` are undirected. The rules for
    selection bias (5 to 7) are left out: no sample is recorded because of the values it has. Where two rules disagree
    over a mark, it becomes an arrow head. The result does not depend on the order of columns.

    Complexity: exponential in the size of Possible-D-SEP. The search given its subsets ends before the size that would
    bring its tests above ``MAX_TESTS_BEYOND_NEIGHBOURS``, and the algorithm goes on: more pairs stay adjacent and more
    marks unknown, but what is oriented stands (Spirtes, "An Anytime Algorithm for Causal Inference", AISTATS 2001).

    Raises:
        MethodError: too many columns, or too many tests among neighbours (:mod:`tasks.rca.graph.skeleton`).
    """
    require_few_columns(values.shape[1])
    test = Independence(correlation_matrix(values), len(values), alpha)
    skeleton = learn_skeleton(test)
    take_apart_given_possible_d_sep(skeleton, test)
    marks = Marks(skeleton)
    marks.orient()
    return marks.graph()


def take_apart_given_possible_d_sep(
    skeleton: Skeleton, test: Independence, *, max_tests: int = MAX_TESTS_BEYOND_NEIGHBOURS
) -> None:
    """Remove pairs from ``skeleton`` that are separated only by sets with columns other than neighbours.

    Such pairs exist where causes are hidden.
    """
    possible = possible_d_sep(skeleton.adjacent, colliders(skeleton))
    pools = possible.sum(axis=1)
    tests_made = 0
    for size in range(1, int(pools.max(initial=1))):
        before = skeleton.adjacent.copy()
        needed = count_tests(before.sum(axis=1), pools, size)
        if not needed or not test.possible(size):
            return
        tests_made += needed
        if tests_made > max_tests:
            log.info(
                "FCI ends its search beyond neighbours at sets of %d: %d would take %d tests", size - 1, size, needed
            )
            return
        for tests in batched(_beyond_neighbours(before, possible, size)):
            skeleton.record(test.independent(tests))


def _beyond_neighbours(adjacent: np.ndarray, possible: np.ndarray, size: int) -> Iterator[Tests]:
    """Tests of adjacent i, j given ``size`` of Possible-D-SEP, not all of them neighbours of i or all of j."""
    for x in range(len(adjacent)):
        pool = np.flatnonzero(possible[x])
        others = np.flatnonzero(adjacent[x, pool])
        for i, j, given in conditioned(x, others, pool, size):
            seen = adjacent[i[:, None], given].all(axis=1) | adjacent[j[:, None], given].all(axis=1)
            yield i[~seen], j[~seen], given[~seen]


def possible_d_sep(adjacent: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """(n, n) bool: [x, v] if a walk leads from x to v whose every inner column is a collider or in a triangle."""

    def may_pass(before: np.ndarray, column: int, after: np.ndarray) -> np.ndarray:
        return adjacent[np.ix_(before, after)] | (heads[before, column][:, None] & heads[after, column])

    walks = EdgeWalks(adjacent, may_pass)
    possible = np.zeros_like(adjacent)
    for x in range(len(adjacent)):
        possible[x] = walks.reached_from(x)[1].any(axis=0)
    np.fill_diagonal(possible, False)
    return possible


class EdgeWalks:
    """Walks over some edges of a graph, where what may follow an edge depends on both its ends. No walk turns round."""

    def __init__(self, edges: np.ndarray, may_pass: Callable[[np.ndarray, int, np.ndarray], np.ndarray]) -> None:
        """``edges``: (n, n) bool: a walk may go from i to j. ``may_pass(before, column, after)``: (before, after) bool:
        a walk that came from ``before`` to ``column`` may go on to ``after``.
        """
        self._n = len(edges)
        self._from, self._to = np.nonzero(edges)
        number = np.full(edges.shape, -1)
        number[self._from, self._to] = np.arange(len(self._from))
        steps = [np.empty((2, 0), dtype=np.intp)]
        for column in range(self._n):
            before, after = np.flatnonzero(edges[:, column]), np.flatnonzero(edges[column])
            first, second = np.nonzero(may_pass(before, column, after) & (before[:, None] != after))
            steps.append(np.stack([number[before[first], column], number[column, after[second]]]))
        source, target = np.concatenate(steps, axis=1)
        shape = (len(self._from), len(self._from))
        self._steps = csr_array((np.ones(len(source)), (source, target)), shape=shape)

    def reached_from(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first columns of walks from ``start``, and the columns reachable by each, (first, n) bool."""
        first = np.flatnonzero(self._from == start)
        columns = np.zeros((len(first), self._n), dtype=bool)
        if len(first):
            distance = shortest_path(self._steps, unweighted=True, indices=first)
            walk, edge = np.nonzero(np.isfinite(distance))
            columns[walk, self._to[edge]] = True
        return self._to[first], columns


class Marks:
    """The marks at both ends of every edge, and the rules that turn circles into arrow heads and tails.

    ``heads[i, j]``, ``tails[i, j]``: (n, n) bool, the mark at j of the edge between i and j; neither: a circle.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.adjacent = skeleton.adjacent
        self.apart = ~self.adjacent & ~np.eye(len(self.adjacent), dtype=bool)
        self.heads = colliders(skeleton)
        self.tails = np.zeros_like(self.heads)

    @property
    def circles(self) -> np.ndarray:
        return self.adjacent & ~self.heads & ~self.tails

    @property
    def directed(self) -> np.ndarray:
        """[i, j]: i -> j."""
        return self.heads & self.tails.T

    def graph(self) -> CausalGraph:
        possibly_directed = self.heads & self.circles.T
        known = self.directed | possibly_directed
        return CausalGraph(self.directed, self.adjacent & ~known & ~known.T, possibly_directed)

    def orient(self) -> None:
        """Apply Zhang's rules until none applies.

        A rule is applied to the graph as it was before it, everywhere at once, so no order of edges decides.
        """
        rules = (self._rules_1_to_3, self._rule_4, self._rule_8, self._rules_9_and_10)
        while any(rule() for rule in rules):
            pass

    def _set(self, heads: np.ndarray, tails: np.ndarray) -> bool:
        """Replace circles, heads before tails; return whether any was replaced."""
        heads = heads & self.circles
        tails = tails & self.circles & ~heads
        self.heads |= heads
        self.tails |= tails
        return bool(heads.any() or tails.any())

    def _set_tails(self, tails: np.ndarray) -> bool:
        return self._set(np.zeros_like(tails), tails)

    def _rules_1_to_3(self) -> bool:
        """1: a *-> b o-* c, a and c apart: b -> c. 2: a -> b *-> c or a *-> b -> c, a *-o c: a *-> c.
        3: a *-> b <-* c, a *-o d o-* c, a and c apart, d *-o b: d *-> b.
        """
        circles = self.circles
        away_from_collider = linked(self.heads.T, self.apart) & circles.T
        away_from_cycle = linked(self.directed, self.heads) | linked(self.heads, self.directed)
        third = double_triangle(circles, circles.T, self.heads, self.apart)
        return self._set(away_from_collider | away_from_cycle | third, tails=away_from_collider.T)

    def _rule_4(self) -> bool:
        """Orient b on a discriminating path d *-> ... <-> a <-* b o-* c, whose columns between d and b are parents of c
        and colliders, while d and c are apart: b -> c if a set with b separated d and c, else a <-> b <-> c.
        """
        heads, tails = np.zeros_like(self.heads), np.zeros_like(self.heads)
        circles = self.circles
        for c in np.flatnonzero(circles.any(axis=1)).tolist():
            parents = self.directed[:, c]
            for b in np.flatnonzero(circles[c]).tolist():
                for a in np.flatnonzero(parents & self.heads[b]).tolist():
                    starts = self._starts_of_discriminating_paths(a, b, c, parents)
                    if not len(starts):
                        continue
                    heads[b, c] = True
                    if self.skeleton.separates[c, starts, b].all():
                        tails[c, b] = True
                    else:
                        heads[a, b] = heads[c, b] = True
        return self._set(heads, tails)

    def _starts_of_discriminating_paths(self, a: int, b: int, c: int, parents: np.ndarray) -> np.ndarray:
        both_heads = self.heads & self.heads.T
        body = np.zeros(len(parents), dtype=bool)
        body[a] = True
        while True:
            longer = body | (both_heads[body].any(axis=0) & parents)
            longer[b] = False
            if (longer == body).all():
                break
            body = longer
        return np.flatnonzero(self.heads[:, body].any(axis=1) & self.skeleton.separated[:, c])

    def _rule_8(self) -> bool:
        """Orient a -> c where a -> b -> c and a o-> c."""
        return self._set_tails((linked(self.directed, self.directed) & self.heads).T)

    def _rules_9_and_10(self) -> bool:
        """Orient a o-> c to a -> c if a may cause c by a walk that leaves by one column, or by one of two.

        The walks are possibly directed and uncovered: every three columns in a row have their ends apart. By rule 1, if
        such a walk leaves a by a cause-effect edge, all its edges are such.
        9: the walk comes to c and its first column is apart from c.
        10: two walks whose first columns are apart come to two parents of c.
        """
        possibly = self.adjacent & ~self.heads.T & ~self.tails
        walks = EdgeWalks(possibly, lambda before, _, after: self.apart[np.ix_(before, after)])
        tails = np.zeros_like(self.tails)
        unsure = self.heads & self.circles.T
        for a in np.flatnonzero(unsure.any(axis=1)).tolist():
            first, reached = walks.reached_from(a)
            ninth = (self.apart[first] & reached).any(axis=0)
            one, two = np.nonzero(np.triu(self.apart[np.ix_(first, first)]))
            for c in np.flatnonzero(unsure[a]).tolist():
                parents = reached[:, self.directed[:, c]]
                counts = parents.sum(axis=1)
                tenth = (counts[one] > 0) & (counts[two] > 0) & ((parents[one] | parents[two]).sum(axis=1) > 1)
                tails[c, a] = ninth[c] or tenth.any()
        return self._set_tails(tails)
