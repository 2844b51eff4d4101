"""Figures of a comparison as Plotly traces and layout; colours are names that the page's style sheet has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tasks.compare.compare import Comparison, ScoreChange
from tasks.compare.side import Estimate, HealthyRequests
from tasks.report.rounding import json_numbers
from tasks.score.accuracy import COMPARED_SCORES, SCORE_LABELS

A_COLOUR, B_COLOUR, CHANCE_COLOUR = "--target-2", "--target", "--edge"
_ROW_HEIGHT, _FRAME = 26, 110
_POINTS = 200

Figure = dict[str, Any]


def score_figure(comparison: Comparison) -> Figure:
    """Left: the leading score of every method in both campaigns; right: its difference, with intervals."""
    name = COMPARED_SCORES[0]
    changes = [change for change in comparison.scores if change.score == name][::-1]
    labels = [change.method for change in changes]
    traces = [
        _dots("A", A_COLOUR, "circle-open", 15, labels, [_bounds(change.a) for change in changes]),
        _dots("B", B_COLOUR, "circle", 8, labels, [_bounds(change.b) for change in changes]),
        {
            **_dots("B − A", "--text", "diamond", 9, labels, [_change_bounds(change) for change in changes]),
            "xaxis": "x2",
            "showlegend": False,
        },
    ]
    chance = next((change.b.chance for change in changes if change.b and change.b.chance is not None), None)
    shapes = [_line("x2", 0.0, "--quiet", "solid")] + (
        [] if chance is None else [_line("x", chance, CHANCE_COLOUR, "dash")]
    )
    label = SCORE_LABELS[name]
    return {
        "traces": traces,
        "layout": {
            "height": _FRAME + _ROW_HEIGHT * len(labels),
            "margin": {"l": 150, "r": 20, "t": 46, "b": 46},
            "xaxis": {"domain": [0, 0.6], "range": [-0.02, 1.02], "title": {"text": f"{label} (dashed: chance of B)"}},
            "xaxis2": {"domain": [0.65, 1], "title": {"text": f"{label}, B − A"}, "anchor": "y"},
            "yaxis": {"automargin": True, "dtick": 1},
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
            "shapes": shapes,
        },
    }


def _bounds(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def _change_bounds(change: ScoreChange) -> tuple[float | None, float | None, float | None]:
    found = change.difference
    return (None, None, None) if found is None else (found.value, found.low, found.high)


def _dots(
    name: str,
    colour: str,
    symbol: str,
    size: int,
    labels: list[str],
    bounds: Iterable[tuple[float | None, float | None, float | None]],
) -> Figure:
    values, above, below = [], [], []
    for value, low, high in bounds:
        values.append(value)
        above.append(0.0 if value is None or high is None else high - value)
        below.append(0.0 if value is None or low is None else value - low)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": values,
        "y": labels,
        "marker": {"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
        "error_x": {"type": "data", "array": above, "arrayminus": below, "color": colour, "thickness": 1.4, "width": 4},
        "hovertemplate": "%{y}: %{x:.2f}<extra>" + name + "</extra>",
    }


def _line(axis: str, x: float, colour: str, dash: str) -> Figure:
    line = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", "xref": axis, "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def latency_figure(comparison: Comparison) -> Figure:
    """Share of healthy requests that were done after so many seconds: latency left, time to first token right."""
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
    return {
        "traces": traces,
        "layout": {
            "height": 360,
            "margin": {"l": 60, "r": 20, "t": 46, "b": 46},
            "xaxis": {**seconds_axis, "domain": [0, 0.47], "title": {"text": "latency of healthy requests"}},
            "xaxis2": {**seconds_axis, "domain": [0.53, 1], "title": {"text": "time to first token"}, "anchor": "y2"},
            "yaxis": {**share, "title": {"text": "share of requests"}},
            "yaxis2": {**share, "anchor": "x2"},
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        },
    }


def _latencies(requests: Mapping[str, HealthyRequests]) -> list[np.ndarray]:
    return [each.latency_s for each in requests.values()]


def _first_tokens(requests: Mapping[str, HealthyRequests]) -> list[np.ndarray]:
    return [each.ttft_s for each in requests.values()]


def _distribution(values: list[np.ndarray]) -> tuple[list[float | int | None], list[float | int | None]]:
    """Quantiles and their shares; empty without values."""
    together = np.concatenate(values) if values else np.empty(0)
    if not together.size:
        return [], []
    shares = np.linspace(0, 1, min(_POINTS, together.size))
    return json_numbers(np.quantile(together, shares)), json_numbers(shares)
