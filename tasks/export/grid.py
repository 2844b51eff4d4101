"""The time grid of metrics, and the placement of samples on it.

Servers do not always answer at the requested times: VictoriaMetrics rounds long queries to multiples of the step for
its cache, as can the query frontends of Thanos, Mimir and Cortex. Each step takes the nearest sample at most half a
step away, whatever the order or duplication of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from tasks.export.sources.matrix import Series

MS_NS = 1_000_000


@dataclass(frozen=True)
class TimeGrid:
    """Sampling times ``start_ms + i * step_ms`` for ``i < steps``, in milliseconds since the epoch."""

    start_ms: int
    step_ms: int
    steps: int

    @classmethod
    def between(cls, start: datetime, end: datetime, step_s: float) -> TimeGrid:
        """Return the times from ``start`` to ``end``, both included where they fall on the grid."""
        start_ms, end_ms, step_ms = (math.floor(x * 1000 + 1e-3) for x in (start.timestamp(), end.timestamp(), step_s))
        if step_ms < 1:
            raise ValueError(f"step_s: {step_s} is below 1 ms")
        if end_ms < start_ms:
            raise ValueError(f"end {end.isoformat()} is before start {start.isoformat()}")
        return cls(start_ms, step_ms, (end_ms - start_ms) // step_ms + 1)

    @classmethod
    def aligned(cls, start: datetime, end: datetime, step_s: float) -> TimeGrid:
        """Return the multiples of the step since the epoch from ``start`` to ``end``: servers that round times to the
        step leave these as they are. A window without one gets the grid of ``between``."""
        plain = cls.between(start, end, step_s)
        skipped = -plain.start_ms % plain.step_ms
        end_ms = math.floor(end.timestamp() * 1000 + 1e-3)
        if plain.start_ms + skipped > end_ms:
            return plain
        first = plain.start_ms + skipped
        return cls(first, plain.step_ms, (end_ms - first) // plain.step_ms + 1)

    def part(self, first: int, steps: int) -> TimeGrid:
        return TimeGrid(self.start_ms + first * self.step_ms, self.step_ms, min(steps, self.steps - first))

    def widened(self, steps: int) -> TimeGrid:
        """Return the grid with ``steps`` further steps on each side."""
        return TimeGrid(self.start_ms - steps * self.step_ms, self.step_ms, self.steps + 2 * steps)

    @property
    def end_ms(self) -> int:
        return self.start_ms + (self.steps - 1) * self.step_ms

    @property
    def times_ns(self) -> np.ndarray:
        """Shape (steps,), int64."""
        return (self.start_ms + np.arange(self.steps, dtype=np.int64) * self.step_ms) * MS_NS

    def nearest(self, times_ns: np.ndarray) -> np.ndarray:
        """Return the index of the step nearest to each time, (n,) int64: the later one half-way between two, below 0
        or from ``steps`` on outside of the grid."""
        offsets = times_ns // MS_NS - self.start_ms
        return (2 * offsets + self.step_ms) // (2 * self.step_ms)


@dataclass
class Misplaced:
    """Deviation of answers from the requested times: ``off_ms``, the largest distance of a sample from its step;
    ``outside``, samples more than two steps outside of the requested window (rounding explains nearer ones)."""

    off_ms: int = 0
    outside: int = 0


def on_grid(series: Sequence[Series], grid: TimeGrid, misplaced: Misplaced | None = None) -> list[Series]:
    """Return the series with one sample per step at most, at exactly the grid's times, in order of time.

    Series with equal labels are merged. Of several samples for one step the nearest counts, of equally near ones the
    later, of several at one time the largest number. Series without a sample on the grid are left out.
    """
    found = [item for item in series if len(item.times_ns)]
    if not found:
        return []
    lengths = np.array([len(item.times_ns) for item in found])
    times = np.concatenate([item.times_ns for item in found])
    steps = grid.nearest(times)
    off = times // MS_NS - grid.start_ms - steps * grid.step_ms
    inside = (steps >= 0) & (steps < grid.steps)
    rising = np.diff(steps) > 0
    rising[np.cumsum(lengths)[:-1] - 1] = True
    numbers: dict[frozenset[tuple[str, str]], int] = {}
    number_of = [numbers.setdefault(frozenset(item.labels.items()), len(numbers)) for item in found]
    if not off.any() and inside.all() and rising.all() and len(numbers) == len(found):
        return found
    if misplaced is not None:
        misplaced.off_ms = max(misplaced.off_ms, int(np.abs(off[inside]).max(initial=0)))
        misplaced.outside += int(((steps < -2) | (steps > grid.steps + 1)).sum())
    values = np.concatenate([item.values for item in found])[inside]
    which = np.repeat(number_of, lengths)[inside]
    times, steps, off = times[inside], steps[inside], off[inside]
    order = np.lexsort((-values, np.isnan(values), -times, np.abs(off), steps, which))
    which, steps, values = which[order], steps[order], values[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(which) != 0) | (np.diff(steps) != 0)
    which, steps, values = which[first], steps[first], values[first]
    labels = [dict(pairs) for pairs in numbers]
    borders = np.searchsorted(which, np.arange(len(labels) + 1))
    grid_times = grid.times_ns
    return [
        Series(labels[i], grid_times[steps[a:b]], values[a:b]) for i, (a, b) in enumerate(pairwise(borders)) if b > a
    ]
