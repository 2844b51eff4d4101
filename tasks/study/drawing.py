"""A case as a small SVG: the metrics that changed most, one panel each, on one time axis."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from xml.sax.saxutils import escape

import numpy as np

from tasks.case import read_case
from tasks.report.case_metrics import CaseSignals, Line, Panel, case_signals
from tasks.study.data import StudyCase

PANELS = 6
_COLUMNS, _WIDTH, _HEIGHT, _GAP, _HEAD = 3, 250, 84, 34, 40
_ROOT, _BLAMED, _OTHER = "#c2410c", "#1d4ed8", "#94a3b8"


def case_svg(case: StudyCase, blamed: Collection[str]) -> str | None:
    """Draw a case; None without samples. Roots are orange, ``blamed`` services that are none blue, the others grey; the
    window of the fault is shaded."""
    read = _signals(case)
    return None if read is None else _drawn(*read, case, blamed)


def _signals(case: StudyCase) -> tuple[CaseSignals, tuple[float, float]] | None:
    """Return the signals of a case and the window of its fault in seconds since the inject time."""
    read = read_case(case.path)
    origin = read.record.injection_time_of(read.record.counted())
    signals = case_signals(read, origin)
    phase = read.record.phase("fault") or read.record.phases[-1]
    window = ((phase.start - origin).total_seconds(), (phase.end - origin).total_seconds())
    return None if signals is None else (signals, window)


def most_changed(signals: CaseSignals, services: Collection[str]) -> list[Panel]:
    """Return the panels in which one of ``services`` changed most; all panels count if it is in none."""

    def change(panel: Panel) -> float:
        lines = [line for line in panel.lines if line.service in services] or list(panel.lines)
        return max((_change(line.values, signals) for line in lines), default=0.0)

    return sorted(signals.panels, key=change, reverse=True)[:PANELS]


def _change(values: np.ndarray, signals: CaseSignals) -> float:
    """Distance of the medians before and after second 0, in the spread of what is before; capped, so that a constant
    line that moves does not hide the others."""
    before = int(np.clip(np.ceil(-signals.grid.start_s / signals.grid.step_s), 0, len(values)))
    first, second = (part[np.isfinite(part)] for part in (values[:before], values[before:]))
    if not len(first) or not len(second):
        return 0.0
    scale = max(float(np.std(first)), 0.05 * abs(float(np.median(first))), 1e-12)
    return min(abs(float(np.median(second) - np.median(first))) / scale, 50.0)


def _drawn(signals: CaseSignals, window: tuple[float, float], case: StudyCase, blamed: Collection[str]) -> str:
    others = [name for name in blamed if name not in case.targets]
    panels = most_changed(signals, case.targets | set(others))
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * (_WIDTH + 20), _HEAD + rows * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="6" y="15" font-size="12"><tspan fill="{_ROOT}">{escape(case.truth)}</tspan>'
        + (f'<tspan fill="{_BLAMED}">   named: {escape(", ".join(others))}</tspan>' if others else "")
        + "</text>",
    ]
    for i, panel in enumerate(panels):
        x, y = 6 + i % _COLUMNS * (_WIDTH + 20), _HEAD + i // _COLUMNS * (_HEIGHT + _GAP)
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, signals, window, case.targets, others)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    panel: Panel, signals: CaseSignals, window: tuple[float, float], roots: Collection[str], blamed: Sequence[str]
) -> str:
    seconds = signals.grid.start_s + signals.grid.step_s * np.arange(signals.grid.points)
    values = np.concatenate([line.values for line in panel.lines])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low = min(low, 0.0) if low < 0.5 * high else low
    extent = (high - low) or 1.0
    span = float(seconds[-1] - seconds[0]) or 1.0

    def x_of(second: float) -> float:
        return min(max((second - seconds[0]) / span, 0.0), 1.0) * _WIDTH

    def y_of(value: float) -> float:
        return _HEIGHT - (value - low) / extent * _HEIGHT

    begin, end = (x_of(second) for second in window)
    unit = f" ({panel.unit})" if panel.unit else ""
    parts = [
        f'<rect x="{begin:.0f}" width="{end - begin:.0f}" height="{_HEIGHT}" fill="#fef3c7"/>',
        f'<path d="M0 {_HEIGHT}H{_WIDTH}" stroke="#cbd5e1"/>',
        f'<text y="-5">{escape(panel.metric + unit)}</text>',
        f'<text x="{_WIDTH}" y="-5" text-anchor="end" fill="#64748b">{low:.3g} to {high:.3g}</text>',
    ]
    for line in sorted(panel.lines, key=lambda line: _rank(line, roots, blamed)):
        colour = (_OTHER, _BLAMED, _ROOT)[_rank(line, roots, blamed)]
        stroke = 1 if colour == _OTHER else 2
        points = [(x_of(second), y_of(value)) for second, value in zip(seconds, line.values, strict=True)]
        parts.append(f'<path d="{_path(points)}" fill="none" stroke="{colour}" stroke-width="{stroke}"/>')
    return "".join(parts)


def _rank(line: Line, roots: Collection[str], blamed: Collection[str]) -> int:
    return 2 if line.service in roots else 1 if line.service in blamed else 0


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Return the path through the points; a missing value interrupts it."""
    parts, down = [], False
    for x, y in points:
        if not np.isfinite(y):
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{x:.0f} {y:.0f}")
        down = True
    return "".join(parts)
