"""Figures: the data that a case's figure is drawn from in the browser, and the score figure, drawn here as SVG."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.report.data import CaseSummary, Window
from tasks.report.formatting import PREFIXED_UNITS, quantity
from tasks.report.latency import LatencyScatter
from tasks.report.rounding import json_numbers
from tasks.report.scoreboard import Scoreboard
from tasks.report.signals import CaseSignals, Panel, Shift

_TIME_DIGITS = 6


def packed(document: bytes) -> str:
    """gzip + base64: smaller, and without a character that HTML could misread. The same bytes in give the same out."""
    return base64.b64encode(gzip.compress(document, compresslevel=9, mtime=0)).decode("ascii")


def case_figure(case: CaseSummary) -> str | None:
    """Packed JSON for ``drawCase`` in ``report.js``; None when there is nothing to draw.

    Keys: ``t0`` (injection, ms since the epoch), ``span`` (s since injection), ``services``, ``targets``, ``windows``,
    ``requests`` (see ``LatencyScatter``) and ``panels`` on the grid ``x0 + i * dx``.
    """
    if case.scatter is None and case.signals is None:
        return None
    document: dict[str, Any] = {
        "t0": round(case.injection_time.timestamp() * 1000),
        "span": [(moment - case.injection_time).total_seconds() for moment in (case.start, case.end)],
        "services": case.services,
        "targets": case.targets,
        "windows": [
            {
                "label": f"{injection.kind} on {injection.target}",
                "target": injection.target,
                "planned": _ends(injection.planned),
                "observed": _ends(injection.observed),
                "verified": _ends(injection.verified),
            }
            for injection in case.injections
        ],
        "requests": _requests(case.scatter) if case.scatter else None,
        **(_metrics(case.signals, case) if case.signals else {"panels": []}),
    }
    return packed(json.dumps(document, separators=(",", ":"), allow_nan=False).encode())


def _ends(window: Window | None) -> list[float] | None:
    return [round(window.start_s, 3), round(window.end_s, 3)] if window else None


def _requests(scatter: LatencyScatter) -> dict[str, Any]:
    failed = np.flatnonzero(scatter.failed)
    return {
        "services": scatter.services,
        "x": json_numbers(scatter.seconds, _TIME_DIGITS),
        "y": json_numbers(scatter.latency_s),
        "s": scatter.service.tolist(),
        "failed": failed.tolist(),
        "errors": [scatter.errors[i] for i in failed],
        "bins": json_numbers(scatter.bins, _TIME_DIGITS),
        "p50": json_numbers(scatter.p50),
        "p95": json_numbers(scatter.p95),
        "bin_s": json_numbers([scatter.bin_s])[0],
        "total": scatter.total,
    }


def _metrics(signals: CaseSignals, case: CaseSummary) -> dict[str, Any]:
    shifts = {(shift.metric, shift.service): shift for shift in signals.shifts}
    return {
        "x0": round(signals.grid.start_s, 3),
        "dx": round(signals.grid.step_s, 6),
        "n": signals.grid.points,
        "averaged": signals.grid.averaged,
        "panels": [_panel(panel, case, shifts) for panel in signals.panels],
    }


def _panel(panel: Panel, case: CaseSummary, shifts: dict[tuple[str, str], Shift]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "metric": panel.metric,
        "unit": panel.unit,
        "note": _change(shifts.get((panel.metric, case.targets[0]))) if len(case.targets) == 1 else "",
        "lines": [[case.services.index(line.service), json_numbers(line.values)] for line in panel.lines],
    }
    if panel.band_low is not None and panel.band_high is not None:
        document |= {
            "low": json_numbers(panel.band_low),
            "high": json_numbers(panel.band_high),
            "others": panel.band_services,
        }
    return document


def _change(shift: Shift | None) -> str:
    """``0.2 → 0.33``, without the unit unless it needs a prefix: the panel's title names it."""
    if shift is None:
        return ""
    unit = shift.unit if shift.unit in PREFIXED_UNITS else ""
    return f"{quantity(shift.baseline, unit)} → {quantity(shift.fault, unit)}"


@dataclass(frozen=True)
class Mark:
    """One method in one group, in SVG user units. None: no interval or no chance line."""

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
class ScoreFigure:
    """A dot plot: one facet per group, one row per method, the axis from 0 to 1."""

    label: str
    width: float
    height: float
    axis_width: float
    row_height: float
    plot_height: float
    facets: tuple[Facet, ...]
    row_labels: tuple[tuple[float, float, str], ...]
    ticks: tuple[float, ...]


_LABEL_WIDTH, _AXIS_WIDTH, _GUTTER, _ROW, _TITLE, _AXIS_HEIGHT = 150.0, 170.0, 26.0, 22.0, 26.0, 26.0
_FACETS_PER_ROW = 5


def score_figure(board: Scoreboard, score: str, label: str, levels: Sequence[str]) -> ScoreFigure:
    """``score`` of every method in every group whose level is in ``levels``."""
    groups = [group for group in board.groups if group.level in levels]
    plot_height = _ROW * len(board.methods)
    facets, row_labels = [], []
    for i, group in enumerate(groups):
        x = _LABEL_WIDTH + (i % _FACETS_PER_ROW) * (_AXIS_WIDTH + _GUTTER)
        y = _TITLE + (i // _FACETS_PER_ROW) * (plot_height + _TITLE + _AXIS_HEIGHT)
        marks = []
        for row in group.rows:
            estimate = row.estimates.get(score)
            if estimate is None or estimate.value is None:
                continue
            low, high, chance = (
                None if v is None else v * _AXIS_WIDTH for v in (estimate.low, estimate.high, estimate.chance)
            )
            middle = _ROW * (board.methods.index(row.name) + 0.5)
            text = f"{row.name}, {group.title}: {label} {estimate.value:.2f}"
            if estimate.low is not None and estimate.high is not None:
                text += f" [{estimate.low:.2f}, {estimate.high:.2f}]"
            if estimate.chance is not None:
                text += f", chance {estimate.chance:.2f}"
            marks.append(Mark(middle, estimate.value * _AXIS_WIDTH, low, high, chance, f"{text}, {row.cases} case(s)"))
        facets.append(Facet(group.title, x, y, tuple(marks)))
        if i % _FACETS_PER_ROW == 0:
            row_labels += [(_LABEL_WIDTH - 10, y + _ROW * (m + 0.5), name) for m, name in enumerate(board.methods)]
    rows = -(-len(groups) // _FACETS_PER_ROW)
    columns = min(len(groups), _FACETS_PER_ROW)
    return ScoreFigure(
        label=label,
        width=_LABEL_WIDTH + columns * (_AXIS_WIDTH + _GUTTER),
        height=rows * (plot_height + _TITLE + _AXIS_HEIGHT),
        axis_width=_AXIS_WIDTH,
        row_height=_ROW,
        plot_height=plot_height,
        facets=tuple(facets),
        row_labels=tuple(row_labels),
        ticks=(0.0, 0.5, 1.0),
    )
