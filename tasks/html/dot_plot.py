"""Dot plots: one facet per group, one row per name. Drawn as SVG; lengths in its user units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LABEL_WIDTH, AXIS_WIDTH, GUTTER, TITLE_HEIGHT, AXIS_HEIGHT = 150.0, 170.0, 26.0, 26.0, 26.0
ROW_HEIGHT, NARROW_ROW_HEIGHT, NARROW_FROM = 22.0, 17.0, 12
FACETS_PER_ROW = 5


@dataclass(frozen=True)
class Dot:
    """One value in the row called ``row``. None: no interval or no chance line; ``series``: a class of the style
    sheet that sets dots of one row apart."""

    row: str
    value: float
    low: float | None
    high: float | None
    text: str
    chance: float | None = None
    series: str = ""


@dataclass(frozen=True)
class Group:
    """The dots of one facet; the axis ends at the first and the last of ``ticks``."""

    title: str
    dots: Sequence[Dot]
    ticks: tuple[float, ...] = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A dot at its drawn position."""

    y: float
    x: float
    low: float | None
    high: float | None
    chance: float | None
    text: str
    series: str


@dataclass(frozen=True)
class Facet:
    title: str
    x: float
    y: float
    ticks: tuple[Text, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class DotPlot:
    """Layout drawn by the macro ``dot_plot`` of dot_plot.html.j2."""

    label: str
    description: str
    width: float
    height: float
    axis_width: float
    row_height: float
    plot_height: float
    facets: tuple[Facet, ...]
    row_labels: tuple[Text, ...]


def dot_plot(
    label: str, description: str, rows: Sequence[str], groups: Sequence[Group], *, axis_width: float = AXIS_WIDTH
) -> DotPlot:
    """Lay out ``groups`` side by side, ``rows`` from top to bottom. ``description``: text for screen readers."""
    row_height = ROW_HEIGHT if len(rows) < NARROW_FROM else NARROW_ROW_HEIGHT
    plot_height = row_height * len(rows)
    middle = {row: row_height * (i + 0.5) for i, row in enumerate(rows)}
    facets, row_labels = [], []
    for i, group in enumerate(groups):
        x = LABEL_WIDTH + (i % FACETS_PER_ROW) * (axis_width + GUTTER)
        y = TITLE_HEIGHT + (i // FACETS_PER_ROW) * (plot_height + TITLE_HEIGHT + AXIS_HEIGHT)
        facets.append(_facet(group, x, y, middle, axis_width))
        if i % FACETS_PER_ROW == 0:
            row_labels += [Text(LABEL_WIDTH - 10, y + middle[row], row) for row in rows]
    return DotPlot(
        label=label,
        description=description,
        width=LABEL_WIDTH + min(len(groups), FACETS_PER_ROW) * (axis_width + GUTTER),
        height=-(-len(groups) // FACETS_PER_ROW) * (plot_height + TITLE_HEIGHT + AXIS_HEIGHT),
        axis_width=axis_width,
        row_height=row_height,
        plot_height=plot_height,
        facets=tuple(facets),
        row_labels=tuple(row_labels),
    )


def _facet(group: Group, x: float, y: float, middle: dict[str, float], axis_width: float) -> Facet:
    begin, end = group.ticks[0], group.ticks[-1]

    def place(value: float) -> float:
        return (value - begin) / (end - begin) * axis_width

    ticks = tuple(Text(place(tick), 0.0, f"{tick:g}".replace("-", "−")) for tick in group.ticks)
    marks = []
    for dot in group.dots:
        low, high, chance = (None if v is None else place(v) for v in (dot.low, dot.high, dot.chance))
        marks.append(Mark(middle[dot.row], place(dot.value), low, high, chance, dot.text, dot.series))
    return Facet(group.title, x, y, ticks, tuple(marks))
