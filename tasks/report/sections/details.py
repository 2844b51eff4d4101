"""Details per case: injections, rankings, requests and metrics; ``details.js`` draws the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from tasks.html.formatting import PREFIXED_UNITS, quantity
from tasks.html.rounding import json_numbers
from tasks.html.shell import figure_data
from tasks.injection import Interval
from tasks.report.case_metrics import CaseSignals, Panel, Shift
from tasks.report.data import CaseSummary, ReportData
from tasks.report.fleet_map import CLIP_SIGMAS, MAX_SIGMAS, FleetMap
from tasks.report.latency import LatencyScatter
from tasks.report.section import rendered, section

RANKS_SHOWN = 10
FINDINGS_SHOWN = 4
EVIDENCE_SHOWN = 6
_TIME_DIGITS = 6


@section(link="Case by case", title="Case by case", order=80)
def render(report: ReportData) -> Markup | None:
    if report.only_recovery:
        return None
    limits = {
        "MAX_SIGMAS": MAX_SIGMAS,
        "RANKS_SHOWN": RANKS_SHOWN,
        "FINDINGS_SHOWN": FINDINGS_SHOWN,
        "EVIDENCE_SHOWN": EVIDENCE_SHOWN,
    }
    return Markup("").join(
        rendered("details.html.j2", report, case=case, figure=_figure(case), **limits) for case in report.detailed
    )


def _figure(case: CaseSummary) -> Markup | None:
    document = case_figure(case)
    return figure_data(document) if document else None


def case_figure(case: CaseSummary) -> dict[str, Any] | None:
    """Return the data for ``details.js``; None when there is nothing to draw.

    Keys: ``t0`` (injection, ms since the epoch), ``span`` (s since injection), ``services`` (of a fleet: those drawn),
    ``targets``, ``windows``, ``requests`` (see ``LatencyScatter``), ``panels`` on the grid ``x0 + i * dx``, and of a
    fleet ``fleet`` (see ``FleetMap``).
    """
    if case.scatter is None and case.signals is None:
        return None
    services = case.signals.drawn if case.signals and case.signals.fleet else case.services
    return {
        "t0": round(case.injection_time.timestamp() * 1000),
        "span": [case.seconds(moment) for moment in (case.start, case.end)],
        "services": services,
        "targets": case.targets,
        "windows": [
            {
                "label": injection.phrase,
                "target": injection.target,
                "planned": _ends(injection.planned, case),
                "observed": _ends(injection.observed, case),
                "verified": _ends(injection.verified, case),
            }
            for injection in case.injections
        ],
        "requests": _requests(case.scatter) if case.scatter else None,
        **(_metrics(case.signals, case, services) if case.signals else {"panels": []}),
    }


def _ends(interval: Interval | None, case: CaseSummary) -> list[float] | None:
    return [round(case.seconds(moment), 3) for moment in (interval.start, interval.end)] if interval else None


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


def _metrics(signals: CaseSignals, case: CaseSummary, services: Sequence[str]) -> dict[str, Any]:
    shifts = {(shift.metric, shift.service): shift for shift in signals.shifts}
    return {
        "x0": round(signals.grid.start_s, 3),
        "dx": round(signals.grid.step_s, 6),
        "n": signals.grid.points,
        "averaged": signals.grid.averaged,
        "panels": [_panel(panel, case, services, shifts) for panel in signals.panels],
        **({"fleet": _fleet(signals.fleet)} if signals.fleet else {}),
    }


def _fleet(fleet: FleetMap) -> dict[str, Any]:
    """Return a map; its values are in tenths of a standard deviation, by row."""
    tenths = np.round(10 * fleet.values)
    return {
        "metric": fleet.metric,
        "rows": [row.label for row in fleet.rows],
        "single": fleet.single,
        "most": CLIP_SIGMAS,
        "tenths": [[None if np.isnan(value) else int(value) for value in row] for row in tenths.tolist()],
    }


def _panel(
    panel: Panel, case: CaseSummary, services: Sequence[str], shifts: dict[tuple[str, str], Shift]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "metric": panel.metric,
        "unit": panel.unit,
        "note": _change(shifts.get((panel.metric, case.targets[0]))) if len(case.targets) == 1 else "",
        "lines": [[services.index(line.service), json_numbers(line.values)] for line in panel.lines],
    }
    if panel.band_low is not None and panel.band_high is not None:
        document |= {
            "low": json_numbers(panel.band_low),
            "high": json_numbers(panel.band_high),
            "others": panel.band_services,
        }
    if panel.band_middle is not None:
        document["middle"] = json_numbers(panel.band_middle)
    return document


def _change(shift: Shift | None) -> str:
    """Return a change as ``0.2 → 0.33``; only units with prefixes are shown, the panel's title names the others."""
    if shift is None:
        return ""
    unit = shift.unit if shift.unit in PREFIXED_UNITS else ""
    return f"{quantity(shift.baseline, unit)} → {quantity(shift.fault, unit)}"
