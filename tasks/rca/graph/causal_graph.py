"""The causal graph over columns, common to all causal discovery algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class CausalGraph:
    """Edges between n columns, as three (n, n) boolean arrays.

    ``directed[i, j]``: i causes j (i -> j). Both ways are allowed: Granger causality has feedback.
    ``undirected[i, j] == undirected[j, i]``: adjacent, direction unknown (``---`` of PC; ``o-o`` and ``<->`` of FCI).
    ``possibly_directed[i, j]``: FCI's i o-> j: j does not cause i.

    A pair has edges of one kind at most, and no column has an edge to itself.

    Raises:
        ValueError: the arrays break a rule above.
    """

    directed: np.ndarray
    undirected: np.ndarray
    possibly_directed: np.ndarray

    def __post_init__(self) -> None:
        sorts = (self.directed, self.undirected, self.possibly_directed)
        n = len(self.directed)
        if any(sort.shape != (n, n) or sort.dtype != bool for sort in sorts):
            raise ValueError(f"edges must be boolean ({n}, {n}) arrays")
        if any(sort.diagonal().any() for sort in sorts):
            raise ValueError("a column has an edge to itself")
        if (self.undirected != self.undirected.T).any():
            raise ValueError("an undirected edge goes one way only")
        if (self.possibly_directed & self.possibly_directed.T).any():
            raise ValueError("a possibly directed edge goes both ways")
        if (sum((sort | sort.T).astype(int) for sort in sorts) > 1).any():
            raise ValueError("a pair of columns has edges of two sorts")

    @classmethod
    def of_directed(cls, directed: np.ndarray) -> CausalGraph:
        """Return a graph of directed edges only."""
        none = np.zeros_like(directed, dtype=bool)
        return cls(directed, none, none)

    def __len__(self) -> int:
        """Number of columns."""
        return len(self.directed)

    def causes(self) -> np.ndarray:
        """(n, n) bool [effect, cause]: every edge along which a walk from effect to cause may go.

        Undirected edges go both ways; i o-> j goes from j to i only.
        """
        return (self.directed | self.possibly_directed).T | self.undirected

    def parents(self, column: int) -> np.ndarray:
        """Indices of the certain causes of ``column``, ascending."""
        return np.flatnonzero(self.directed[:, column])


@dataclass(frozen=True)
class DirectedEdges:
    """The directed edges between ``size`` columns, for graphs that have few of the possible ones: memory grows with the
    edges, not with the square of the columns. ``cause``, ``effect``: (edges,) positions, each pair once."""

    size: int
    cause: np.ndarray
    effect: np.ndarray

    @classmethod
    def of(cls, graph: CausalGraph) -> DirectedEdges:
        """Return the directed edges of ``graph``."""
        return cls(len(graph), *np.nonzero(graph.directed))

    def parents(self, column: int) -> np.ndarray:
        """Indices of the causes of ``column``, ascending."""
        causes, begin = self._by_effect
        return causes[begin[column] : begin[column + 1]]

    def effects(self, column: int) -> np.ndarray:
        """Indices of the effects of ``column``, ascending."""
        effects, begin = self._by_cause
        return effects[begin[column] : begin[column + 1]]

    @cached_property
    def _by_effect(self) -> tuple[np.ndarray, np.ndarray]:
        return _lists(self.effect, self.cause, self.size)

    @cached_property
    def _by_cause(self) -> tuple[np.ndarray, np.ndarray]:
        return _lists(self.cause, self.effect, self.size)


def _lists(of: np.ndarray, other: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the other ends in the order of (end, other end), and (size + 1,) where those of each end begin."""
    order = np.lexsort((other, of))
    return other[order], np.searchsorted(of[order], np.arange(size + 1))
