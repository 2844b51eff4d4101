"""Costs and failures of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.section import rendered, section

FAILED_CASES_LINKED = 3


@section(link="Costs", title="Costs and failures", order=50)
def render(report: ReportData) -> Markup | None:
    board = report.scoreboard
    if board is None:
        return None
    return rendered(
        "costs.html.j2",
        report,
        costs=method_costs(board.files.costs, board.methods),
        failures=failures(board.files.rankings, board.methods),
        linked=FAILED_CASES_LINKED,
    )


@dataclass(frozen=True)
class MethodCost:
    """Time (s) and memory (MiB of the whole process) of one method over the ``cases`` that it ran on."""

    cases: int
    seconds_mean: float
    seconds_max: float
    peak_mb_mean: float
    peak_mb_max: float


@dataclass(frozen=True)
class Failures:
    """Cases in which one method failed for one reason."""

    method: str
    status: str
    message: str
    cases: tuple[str, ...]


def method_costs(table: pd.DataFrame | None, methods: Sequence[str]) -> Mapping[str, MethodCost] | None:
    """Return method -> costs; None when nothing was measured."""
    if table is None:
        return None
    return {
        str(method): MethodCost(
            int(row["cases"]), row["wall_s_mean"], row["wall_s_max"], row["peak_mb_mean"], row["peak_mb_max"]
        )
        for method, row in table.iterrows()
        if method in methods
    }


def failures(rankings: pd.DataFrame, methods: Sequence[str]) -> tuple[Failures, ...]:
    """Return the failures in the order of ``methods``, the most frequent reason first."""
    failed = rankings[rankings["status"] != "ok"].drop_duplicates(["case_id", "method"])
    found = [
        Failures(str(method), str(status), str(message), tuple(rows["case_id"].astype(str)))
        for (method, status, message), rows in failed.groupby(["method", "status", "message"], sort=True)
    ]
    return tuple(sorted(found, key=lambda entry: (methods.index(entry.method), -len(entry.cases))))
