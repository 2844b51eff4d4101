"""Figures of a comparison: scores as dots, latency as distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from markupsafe import Markup

from tasks.compare.compare import Comparison, ScoreChange
from tasks.compare.side import HealthyRequests
from tasks.html.dot_plot import Dot, DotPlot, Group, dot_plot
from tasks.html.formatting import difference, score
from tasks.html.rounding import json_numbers
from tasks.html.shell import figure
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS

A_COLOUR, B_COLOUR = "--target-2", "--target"
_AXIS_WIDTH = 380.0
_REACHES = (0.1, 0.2, 0.5, 1.0)
"""Possible ends of the axis of differences."""
_POINTS = 200


def score_figure(comparison: Comparison) -> DotPlot:
    """Return a dot plot: left the leading score per method in both campaigns, right its difference with intervals."""
    changes = [change for change in comparison.scores if change.score == LEADING_SCORE]
    label = SCORE_LABELS[LEADING_SCORE]
    scores = [dot for change in changes for dot in _scores(change)]
    differences = [dot for change in changes if (dot := _difference(change))]
    reach = max((abs(v) for dot in differences for v in (dot.value, dot.low, dot.high) if v is not None), default=0.0)
    end = next(each for each in _REACHES if reach <= each)
    groups = [Group(label, scores), Group(f"{label}, B − A", differences, ticks=(-end, 0.0, end))]
    description = f"{label} of every method in both campaigns and the difference; the numbers are in the table"
    return dot_plot(label, description, [change.method for change in changes], groups, axis_width=_AXIS_WIDTH)


def _scores(change: ScoreChange) -> Iterator[Dot]:
    sides = {"A": change.a, "B": change.b}
    text = ", ".join([f"{name} {score(None if each is None else each.value)}" for name, each in sides.items()])
    for name, each in sides.items():
        if each is not None and each.value is not None:
            chance = each.chance if name == "B" else None
            yield Dot(change.method, each.value, each.low, each.high, f"{change.method}: {text}", chance, name.lower())


def _difference(change: ScoreChange) -> Dot | None:
    found = change.difference
    if found is None:
        return None
    text = f"{change.method}, B − A: {difference(found.value)}"
    return Dot(change.method, found.value, found.low, found.high, text, series="change")


def latency_figure(comparison: Comparison) -> Markup:
    """Return the cumulative distributions of healthy requests: latency left, time to first token right."""
    traces = []
    for axis, values in (("", _latencies), ("2", _first_tokens)):
        for name, colour, side in (("A", A_COLOUR, comparison.a), ("B", B_COLOUR, comparison.b)):
            seconds, shares = _distribution(values(side.requests))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "x": seconds,
                    "y": shares,
                    "line": {"color": colour, "width": 2},
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "showlegend": not axis,
                    "hovertemplate": "%{y:.0%} within %{x:.3s}s<extra>" + name + "</extra>",
                }
            )
    share = {"tickformat": ".0%", "range": [0, 1.01]}
    seconds_axis = {"type": "log", "dtick": "D2", "tickformat": "~s", "ticksuffix": "s", "tickangle": 0}
    layout = {
        "height": 360,
        "margin": {"l": 60, "r": 20, "t": 46, "b": 46},
        "xaxis": {**seconds_axis, "domain": [0, 0.47], "title": {"text": "latency of healthy requests"}},
        "xaxis2": {**seconds_axis, "domain": [0.53, 1], "title": {"text": "time to first token"}, "anchor": "y2"},
        "yaxis": {**share, "title": {"text": "share of requests"}},
        "yaxis2": {**share, "anchor": "x2"},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    }
    return figure(traces, layout)


def _latencies(requests: Mapping[str, HealthyRequests]) -> list[np.ndarray]:
    return [each.latency_s for each in requests.values()]


def _first_tokens(requests: Mapping[str, HealthyRequests]) -> list[np.ndarray]:
    return [each.ttft_s for each in requests.values()]


def _distribution(values: list[np.ndarray]) -> tuple[list[float | int | None], list[float | int | None]]:
    """Return quantiles and their shares; empty without values."""
    together = np.concatenate(values) if values else np.empty(0)
    if not together.size:
        return [], []
    shares = np.linspace(0, 1, min(_POINTS, together.size))
    return json_numbers(np.quantile(together, shares)), json_numbers(shares)
