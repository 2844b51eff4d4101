"""Scores as dots: one facet per group of cases, one row per method. Drawn as SVG; lengths in its user units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.scoreboard import Estimate, ScoreRow, Scores
from tasks.score.accuracy import SCORE_LABELS

LABEL_WIDTH, AXIS_WIDTH, GUTTER, TITLE_HEIGHT, AXIS_HEIGHT = 150.0, 170.0, 26.0, 26.0, 26.0
ROW_HEIGHT, NARROW_ROW_HEIGHT, NARROW_FROM = 22.0, 17.0, 12
FACETS_PER_ROW = 5


@dataclass(frozen=True)
class Mark:
    """One method in one group. None: no interval or no chance line."""

    y: float
    x: float
    low: float | None
    high: float | None
    chance: float | None
    text: str


@dataclass(frozen=True)
class Facet:
    """One group of cases."""

    title: str
    x: float
    y: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class RowLabel:
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class DotPlot:
    """Axes from 0 to 1."""

    label: str
    width: float
    height: float
    axis_width: float
    row_height: float
    plot_height: float
    facets: tuple[Facet, ...]
    row_labels: tuple[RowLabel, ...]
    ticks: tuple[float, ...]


def dot_plot(scores: Scores, score: str, levels: Sequence[str]) -> DotPlot:
    """``score`` of every method, best first, in every group whose level is in ``levels``."""
    groups = scores.at(*levels)
    row_height = ROW_HEIGHT if len(scores.methods) < NARROW_FROM else NARROW_ROW_HEIGHT
    plot_height = row_height * len(scores.methods)
    middle = {method: row_height * (i + 0.5) for i, method in enumerate(scores.methods)}
    facets, row_labels = [], []
    for i, group in enumerate(groups):
        x = LABEL_WIDTH + (i % FACETS_PER_ROW) * (AXIS_WIDTH + GUTTER)
        y = TITLE_HEIGHT + (i // FACETS_PER_ROW) * (plot_height + TITLE_HEIGHT + AXIS_HEIGHT)
        marks = [
            _mark(row, group.title, score, estimate, middle[row.name])
            for row in group.rows
            if (estimate := row.estimates.get(score)) and estimate.value is not None
        ]
        facets.append(Facet(group.title, x, y, tuple(marks)))
        if i % FACETS_PER_ROW == 0:
            row_labels += [RowLabel(LABEL_WIDTH - 10, y + middle[name], name) for name in scores.methods]
    return DotPlot(
        label=SCORE_LABELS[score],
        width=LABEL_WIDTH + min(len(groups), FACETS_PER_ROW) * (AXIS_WIDTH + GUTTER),
        height=-(-len(groups) // FACETS_PER_ROW) * (plot_height + TITLE_HEIGHT + AXIS_HEIGHT),
        axis_width=AXIS_WIDTH,
        row_height=row_height,
        plot_height=plot_height,
        facets=tuple(facets),
        row_labels=tuple(row_labels),
        ticks=(0.0, 0.5, 1.0),
    )


def _mark(row: ScoreRow, group: str, score: str, estimate: Estimate, y: float) -> Mark:
    low, high, chance = (None if v is None else v * AXIS_WIDTH for v in (estimate.low, estimate.high, estimate.chance))
    text = f"{row.name}, {group}: {SCORE_LABELS[score]} {estimate.value:.2f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    if estimate.chance is not None:
        text += f", chance {estimate.chance:.2f}"
    return Mark(y, (estimate.value or 0.0) * AXIS_WIDTH, low, high, chance, f"{text}, {row.cases} case(s)")
