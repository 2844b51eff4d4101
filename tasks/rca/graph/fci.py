"""FCI: what can be said about causes if common causes may have been left out.

Source: Spirtes, Meek, Richardson, "Causal Inference in the Presence of Latent Variables and Selection Bias", UAI 1995,
with the orientation rules of Zhang, "On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias", Artificial Intelligence 2008.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.pc import MAX_TESTS, colliders, linked
from tasks.rca.graph.skeleton import Budget, Independence, Skeleton, Tests, batched, conditioned, learn_skeleton

log = logging.getLogger(__name__)


def learn_fci(
    values: np.ndarray, *, alpha: float = 0.05, max_conditions: int | None = None, max_tests: int = MAX_TESTS
) -> CausalGraph:
    test = Independence(correlation_matrix(values), len(values), alpha)
    budget = Budget(max_tests)
    skeleton = learn_skeleton(test, budget, max_conditions=max_conditions)
    _take_apart_given_possible_d_sep(skeleton, test, budget, max_conditions)
    marks = Marks(skeleton)
    marks.orient()
    return marks.graph()


def _take_apart_given_possible_d_sep(
    skeleton: Skeleton, test: Independence, budget: Budget, max_conditions: int | None
) -> None:
    possible = possible_d_sep(skeleton.adjacent, colliders(skeleton))
    largest = int(possible.sum(axis=1).max(initial=0)) - 1
    for size in range(1, largest + 1 if max_conditions is None else min(largest, max_conditions) + 1):
        if not test.possible(size):
            return
        before = skeleton.adjacent.copy()
        needed = sum(
            int(before[x].sum()) * comb(int(possible[x].sum()) - 1, size) for x in np.flatnonzero(before.any(axis=1))
        )
        if not budget.allows(needed):
            log.info("%s", size)
            return
        budget.spend(needed)
        for tests in batched(_unseen(before, possible, size)):
            skeleton.record(test.independent(tests))


def _unseen(adjacent: np.ndarray, possible: np.ndarray, size: int) -> Iterator[Tests]:
    for x in range(len(adjacent)):
        pool = np.flatnonzero(possible[x])
        others = np.flatnonzero(adjacent[x, pool])
        for i, j, given in conditioned(x, others, pool, size):
            new = ~(adjacent[i[:, None], given].all(axis=1) | adjacent[j[:, None], given].all(axis=1))
            yield i[new], j[new], given[new]


@dataclass(frozen=True)
class EdgeWalks:
    """Walks along directed edges (a, b) from which only some steps (a, b) -> (b, c) are allowed."""

    tails: np.ndarray
    heads: np.ndarray
    steps: csr_array

    @classmethod
    def of(cls, edges: np.ndarray, may_follow: Callable[[int, np.ndarray, np.ndarray], np.ndarray]) -> EdgeWalks:
        """``edges``: (n, n) bool. ``may_follow(b, before, after)``: (before, after) bool, whether a walk may go a, b, c."""
        tails, heads = np.nonzero(edges)
        number = np.full(edges.shape, -1)
        number[tails, heads] = np.arange(len(tails))
        sources, targets = [], []
        for b in np.flatnonzero(edges.any(axis=0) & edges.any(axis=1)):
            before, after = np.flatnonzero(edges[:, b]), np.flatnonzero(edges[b])
            first, second = np.nonzero(may_follow(b, before, after) & (before[:, None] != after))
            sources.append(number[before[first], b])
            targets.append(number[b, after[second]])
        source, target = (np.concatenate([np.empty(0, dtype=int), *parts]) for parts in (sources, targets))
        steps = csr_array((np.ones(len(source)), (source, target)), shape=(len(tails), len(tails)))
        return cls(tails, heads, steps)

    def reached(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """For each edge from ``start``: its head, and which columns walks over it come to: (edges, n) bool."""
        first = np.flatnonzero(self.tails == start)
        n = max(self.tails.max(initial=-1), self.heads.max(initial=-1)) + 1
        columns = np.zeros((len(first), n), dtype=bool)
        if len(first):
            distance = shortest_path(self.steps, unweighted=True, indices=first)
            walk, edge = np.nonzero(np.isfinite(distance))
            columns[walk, self.heads[edge]] = True
        return self.heads[first], columns


def possible_d_sep(adjacent: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """(n, n) bool: [x, v] if a path leads from x to v whose inner columns are all colliders or in triangles."""
    walks = EdgeWalks.of(
        adjacent,
        lambda b, before, after: adjacent[np.ix_(before, after)] | (heads[before, b][:, None] & heads[after, b]),
    )
    possible = np.zeros_like(adjacent)
    for x in np.flatnonzero(adjacent.any(axis=1)):
        _, columns = walks.reached(x)
        found = np.flatnonzero(columns.any(axis=0))
        possible[x, found] = True
    np.fill_diagonal(possible, False)
    return possible


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
        directed = self.directed
        possibly = self.heads & self.circles.T
        known = directed | possibly
        return CausalGraph(directed, self.adjacent & ~known & ~known.T, possibly)

    def orient(self) -> None:
        """Apply the rules until none applies."""
        while self._rules_1_to_3() or self._rule_4() or self._rule_8() or self._rules_9_and_10():
            pass

    def _set(self, heads: np.ndarray, tails: np.ndarray) -> bool:
        circles = self.circles
        heads = heads & circles
        tails = tails & circles & ~heads
        self.heads |= heads
        self.tails |= tails
        return bool(heads.any() or tails.any())

    def _rules_1_to_3(self) -> bool:
        circles = self.circles
        away = linked(self.heads.T, self.apart) & circles.T
        onward = linked(self.directed, self.heads) | linked(self.heads, self.directed)
        return self._set(heads=away | onward | self._double_triangle(circles), tails=away.T)

    def _double_triangle(self, circles: np.ndarray) -> np.ndarray:
        found = np.zeros_like(circles)
        ways = circles.T.astype(np.float32) @ self.heads.astype(np.float32)
        for i, j in np.argwhere(circles & (ways > 1)):
            between = np.flatnonzero(circles[:, i] & self.heads[:, j])
            found[i, j] = self.apart[np.ix_(between, between)].any()
        return found

    def _rule_4(self) -> bool:
        heads, tails = np.zeros_like(self.heads), np.zeros_like(self.heads)
        both = self.heads & self.heads.T
        circles = self.circles
        for c in range(len(both)):
            parents = self.directed[:, c]
            for b in np.flatnonzero(circles[c]):
                for a in np.flatnonzero(parents & self.heads[b]):
                    body = np.zeros(len(both), dtype=bool)
                    body[a] = True
                    while True:
                        more = body | ((both[body].any(axis=0)) & parents)
                        more[b] = False
                        if (more == body).all():
                            break
                        body = more
                    ends = self.heads.T[body].any(axis=0) & self.apart[c] & self.skeleton.separated[c]
                    if not ends.any():
                        continue
                    in_sets = self.skeleton.separates[c, ends, b]
                    heads[b, c] = True
                    if in_sets.all():
                        tails[c, b] = True
                    else:
                        heads[a, b] = heads[c, b] = True
        return self._set(heads, tails)

    def _rule_8(self) -> bool:
        return self._set(heads=np.zeros_like(self.heads), tails=(linked(self.directed, self.directed) & self.heads).T)

    def _rules_9_and_10(self) -> bool:
        circles = self.circles
        open_ = self.heads & circles.T
        possible = self.adjacent & ~self.heads.T & ~self.tails
        walks = EdgeWalks.of(possible, lambda b, before, after: self.apart[np.ix_(before, after)])
        tails = np.zeros_like(self.tails)
        for a in np.flatnonzero(open_.any(axis=1)):
            first, reached = walks.reached(a)
            for c in np.flatnonzero(open_[a]):
                ninth = (self.apart[first, c] & reached[:, c]).any()
                tails[c, a] = ninth or self._rule_10(first, reached[:, np.flatnonzero(self.directed[:, c])])
        return self._set(np.zeros_like(tails), tails)

    def _rule_10(self, first: np.ndarray, reached: np.ndarray) -> bool:
        """``first``: (walks,) first columns. ``reached``: (walks, parents) parents of c that a walk comes to."""
        for one, two in np.argwhere(np.triu(self.apart[np.ix_(first, first)])):
            if reached[one].any() and reached[two].any() and (reached[one] | reached[two]).sum() > 1:
                return True
        return False
