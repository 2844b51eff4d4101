"""Dot plots of scores: one facet per group of cases, one row per method, best first."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.html.dot_plot import Dot, DotPlot, Group, dot_plot
from tasks.report.scoreboard import Estimate, ScoreRow, Scores
from tasks.score.accuracy import SCORE_LABELS

LEVELS = ("overall", "fault")


def score_dots(scores: Scores, score: str, levels: Sequence[str] = LEVELS) -> DotPlot:
    """Return the dot plot of ``score`` for the groups of ``levels``."""
    label = SCORE_LABELS[score]
    groups = [
        Group(
            group.title,
            [
                _dot(row, group.title, label, estimate, estimate.value)
                for row in group.rows
                if (estimate := row.estimates.get(score)) and estimate.value is not None
            ],
        )
        for group in scores.at(*levels)
    ]
    seen = "with intervals and the chance line; the numbers are in the tables"
    return dot_plot(label, f"{label} per method and fault kind, {seen}", scores.methods, groups)


def _dot(row: ScoreRow, group: str, label: str, estimate: Estimate, value: float) -> Dot:
    text = f"{row.name}, {group}: {label} {value:.2f}"
    low, high = estimate.low, estimate.high
    if estimate.wilson_low is not None:
        low, high = estimate.wilson_low, estimate.wilson_high
    if low is not None and high is not None:
        text += f" [{low:.2f}, {high:.2f}]"
    if estimate.chance is not None:
        text += f", chance {estimate.chance:.2f}"
    return Dot(row.name, value, low, high, f"{text}, {row.cases} case(s)", estimate.chance)
