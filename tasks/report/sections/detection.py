"""Accuracy of the detected injection times, when methods are not given the true ones."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pandas as pd
from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.files import number

ROWS_SHOWN = 500
Outcome = Literal["detected", "not detected", "false alarm", "rightly quiet"]


@section(link="Detection", title="Detection: when did the methods think it began?", order=60)
def render(report: ReportData) -> Markup | None:
    found = detections(report.scoreboard.files.detections) if report.scoreboard else None
    return rendered("detection.html.j2", report, detections=found, ROWS_SHOWN=ROWS_SHOWN) if found else None


@dataclass(frozen=True)
class Detection:
    """Detection in one case. ``error_s``: delay of the detection; negative: too early."""

    case_id: str
    fault: str
    true_time: datetime | None
    detected_time: datetime | None
    error_s: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Detections:
    """Detections of all cases, the largest error first."""

    cases: tuple[Detection, ...]

    @property
    def statement(self) -> str:
        """The rows in one sentence."""
        with_fault = [case for case in self.cases if case.true_time is not None]
        errors = [abs(case.error_s) for case in with_fault if case.error_s is not None]
        quiet = len(self.cases) - len(with_fault)
        alarms = sum(case.outcome == "false alarm" for case in self.cases)
        found = f"{sum(case.outcome == 'detected' for case in with_fault)} of {len(with_fault)} faults were detected"
        if errors:
            found += f", half of them within {statistics.median(errors):.3g} s, the worst within {max(errors):.3g} s"
        return f"{found}; false alarms: {alarms} in {quiet} case{'s' * (quiet != 1)} without a fault."


def detections(table: pd.DataFrame | None) -> Detections | None:
    """Return the detections; None when the methods were given the injection times."""
    if table is None or table.empty:
        return None
    cases = [
        Detection(
            case_id=str(row["case_id"]),
            fault=str(row["fault"]),
            true_time=_moment(row["true_time"]),
            detected_time=_moment(row["detected_time"]),
            error_s=number(row["error_s"]),
            outcome=_outcome(not pd.isna(row["true_time"]), bool(row["detected"])),
        )
        for row in table.to_dict("records")
    ]
    cases.sort(key=lambda case: (case.error_s is not None, -abs(case.error_s or 0), case.case_id))
    return Detections(tuple(cases))


def _moment(value: pd.Timestamp) -> datetime | None:
    return None if pd.isna(value) else value.floor("us").to_pydatetime()


def _outcome(fault: bool, detected: bool) -> Outcome:
    if fault:
        return "detected" if detected else "not detected"
    return "false alarm" if detected else "rightly quiet"
