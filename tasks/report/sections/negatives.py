"""Negatives: who names a root where none is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from tasks.html.dot_plot import Dot, DotPlot, Group, dot_plot
from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.files import number
from tasks.score.set_tables import ALL

_MAY_BE_UNDEFINED = ("share", "low", "high", "per_case", "per_hour", "per_hour_low", "per_hour_high")


@section(link="Negatives", title="Negatives: who names a root where none is?", order=37)
def render(report: ReportData) -> Markup | None:
    files = report.scoreboard.files if report.scoreboard else None
    if files is None or files.negatives is None or files.cases is None:
        return None
    cases = int((files.cases["class"] == "negative").sum())
    if not cases:
        return None
    return rendered("negatives.html.j2", report, negatives=negatives(files.negatives), cases=cases)


@dataclass(frozen=True)
class NegativeRow:
    """Alarms of one method on ``cases`` negatives, of which ``alarmed`` had a root named; None: it judged none.

    ``silent``: negatives that it did not judge. ``disturbances``: false roots on a service that a disturbance hit.
    """

    method: str
    cases: int
    silent: int
    alarmed: int
    false_roots: int
    disturbances: int
    share: float | None
    low: float | None
    high: float | None
    per_case: float | None
    hours: float
    per_hour: float | None
    per_hour_low: float | None
    per_hour_high: float | None


@dataclass(frozen=True)
class Negatives:
    """``rows``: over all negatives, the fewest alarms first; ``scenarios``: by scenario."""

    rows: tuple[NegativeRow, ...]
    scenarios: Mapping[str, tuple[NegativeRow, ...]]
    figure: DotPlot | None


def negatives(table: pd.DataFrame) -> Negatives:
    """Return the rows of the table of negatives."""
    groups: dict[str, list[NegativeRow]] = {}
    for row in table.to_dict("records"):
        values: dict[str, Any] = {name: number(row[name]) for name in _MAY_BE_UNDEFINED}
        values |= {name: int(row[name]) for name in ("cases", "silent", "alarmed", "false_roots", "disturbances")}
        made = NegativeRow(method=str(row["method"]), hours=float(row["hours"]), **values)
        groups.setdefault(str(row["group"]), []).append(made)
    for rows in groups.values():
        rows.sort(key=lambda row: (row.share is None, row.share or 0.0, row.method))
    overall = groups.pop(ALL, [])
    return Negatives(tuple(overall), {name: tuple(rows) for name, rows in groups.items()}, _figure(overall))


def _figure(rows: list[NegativeRow]) -> DotPlot | None:
    dots = [
        Dot(row.method, row.share, row.low, row.high, f"{row.method}: {row.alarmed} of {row.cases} negatives")
        for row in rows
        if row.share is not None
    ]
    if not dots:
        return None
    described = "Share of negatives in which each method names a root; the numbers are in the table above"
    return dot_plot("False alarms", described, [dot.row for dot in dots], [Group("negatives with a false root", dots)])
