"""The critical-difference plot: an axis of average ranks, a leader line per method, a bar per clique.

Drawn as SVG; lengths in its user units. Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data
Sets", JMLR 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tasks.report.sections.comparison import Comparison

WIDTH, LABEL_WIDTH, AXIS_Y = 1000.0, 215.0, 44.0
ROW_HEIGHT, BAR_GAP, BAR_OVERHANG, MAX_TICKS = 19.0, 9.0, 4.0, 24


@dataclass(frozen=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True)
class Leader:
    """A method: a line from its place on the axis (``x``) down to ``y``, then out to its label at ``label_x``."""

    method: str
    average_rank: float
    x: float
    y: float
    label_x: float
    side: Literal["left", "right"]


@dataclass(frozen=True)
class Bar:
    """A clique: ``methods`` without a significant difference between any two."""

    x1: float
    x2: float
    y: float
    methods: tuple[str, ...]


@dataclass(frozen=True)
class CriticalDifference:
    width: float
    height: float
    axis_y: float
    axis: tuple[float, float]
    ticks: tuple[Tick, ...]
    leaders: tuple[Leader, ...]
    bars: tuple[Bar, ...]


def critical_difference(comparison: Comparison) -> CriticalDifference:
    """Lay out the plot: labels of the better half left, best on top; of the others right, worst on top."""
    ranks = comparison.average_ranks
    first, last = math.floor(min(ranks.values())), math.ceil(max(ranks.values()))
    last = max(last, first + 1)
    begin, end = LABEL_WIDTH, WIDTH - LABEL_WIDTH

    def place(rank: float) -> float:
        return begin + (rank - first) / (last - first) * (end - begin)

    bars = _bars([(place(ranks[c[0]]), place(ranks[c[-1]]), c) for c in comparison.cliques])
    top = max((bar.y for bar in bars), default=AXIS_Y) + ROW_HEIGHT
    better = (len(ranks) + 1) // 2
    leaders = []
    for i, (method, rank) in enumerate(ranks.items()):
        left = i < better
        row = i if left else len(ranks) - 1 - i
        y = top + row * ROW_HEIGHT
        leaders.append(
            Leader(method, rank, place(rank), y, begin - 14 if left else end + 14, "left" if left else "right")
        )
    step = -(-(last - first) // MAX_TICKS)
    return CriticalDifference(
        width=WIDTH,
        height=top + better * ROW_HEIGHT,
        axis_y=AXIS_Y,
        axis=(begin, end),
        ticks=tuple(Tick(place(rank), str(rank)) for rank in range(first, last + 1, step)),
        leaders=tuple(leaders),
        bars=bars,
    )


def _bars(spans: Sequence[tuple[float, float, tuple[str, ...]]]) -> tuple[Bar, ...]:
    """Stack overlapping bars, as close to the axis as possible."""
    ends: list[float] = []
    bars = []
    for x1, x2, methods in sorted(spans, key=lambda span: span[:2]):
        x1, x2 = x1 - BAR_OVERHANG, x2 + BAR_OVERHANG
        level = next((i for i, end in enumerate(ends) if end < x1 - BAR_OVERHANG), len(ends))
        ends[level : level + 1] = [x2]
        bars.append(Bar(x1, x2, AXIS_Y + (level + 1) * BAR_GAP, methods))
    return tuple(bars)
