"""Sets, kinds and false alarms: what methods say beyond a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from tasks.html.dot_plot import Dot, DotPlot, Group, dot_plot
from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.files import ScoreFiles, number

COLUMNS = {
    "set_precision": "Set precision",
    "set_recall": "Set recall",
    "set_f1": "Set F1",
    "service_f1": "Services F1",
    "set_exact": "Exact",
    "kind_accuracy": "Kind accuracy",
    "kind_unknown": "Kind unknown",
    "order": "Order",
    "victim_order": "Root above victim",
    "root_first": "Above every victim",
}
"""Scores of the table, with their heads."""
FIGURE_SCORES = ("set_f1", "service_f1", "kind_accuracy", "order", "root_first")
BY_GROUP_SCORES = {"set_f1": "Set F1", "service_f1": "Services F1", "kind_accuracy": "Kind accuracy"}
LEVELS = {"roots": "number of roots", "fault": "fault kind", "scenario": "scenario", "stratum": "stratum"}


@section(link="Sets", title="Sets, kinds and false alarms", order=35)
def render(report: ReportData) -> Markup | None:
    board = report.scoreboard
    if board is None:
        return None
    found = set_scores(board.files, board.methods)
    if found is None:
        return None
    return rendered("sets.html.j2", report, sets=found, COLUMNS=COLUMNS, LEVELS=LEVELS, BY_GROUP=BY_GROUP_SCORES)


@dataclass(frozen=True)
class Value:
    """A score with its interval; ``n``: over how many ``unit`` it is."""

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str


@dataclass(frozen=True)
class SetRow:
    """Scores of one method by name; ``says``: it says how many roots there are."""

    method: str
    says: bool
    values: Mapping[str, Value]


@dataclass(frozen=True)
class SetGroup:
    title: str
    rows: Mapping[str, Mapping[str, Value]]

    @property
    def cases(self) -> int:
        return max(values["set_f1"].n for values in self.rows.values() if "set_f1" in values)


@dataclass(frozen=True)
class KindRow:
    """How often ``method`` named each of ``named`` for the true ``kind``."""

    kind: str
    named: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.named.values())


@dataclass(frozen=True)
class SetScores:
    """``rows``: methods that say first, best set F1 first; ``groups``: by level; ``kinds``: by method."""

    rows: tuple[SetRow, ...]
    groups: Mapping[str, tuple[SetGroup, ...]]
    kinds: Mapping[str, tuple[KindRow, ...]]
    figure: DotPlot | None

    @property
    def saying(self) -> tuple[SetRow, ...]:
        return tuple(row for row in self.rows if row.says)

    @property
    def silent(self) -> tuple[str, ...]:
        return tuple(row.method for row in self.rows if not row.says)


def set_scores(files: ScoreFiles, methods: Sequence[str]) -> SetScores | None:
    """Return what the score stage wrote on sets; None if an older one wrote nothing, or no case is scored."""
    table = files.set_scores
    if table is None or not len(files.overall):
        return None
    cells: dict[str, dict[str, dict[str, dict[str, Value]]]] = {}
    for cell in table.to_dict("records"):
        value = Value(cell["value"], number(cell["low"]), number(cell["high"]), int(cell["n"]), cell["unit"])
        of_group = cells.setdefault(cell["level"], {}).setdefault(cell["group"], {})
        of_group.setdefault(cell["method"], {})[cell["score"]] = value
    overall = cells.get("overall", {}).get("all", {})
    rows = [SetRow(m, "set_f1" in overall.get(m, {}), overall.get(m, {})) for m in methods]
    rows.sort(key=lambda row: -row.values["set_f1"].value if row.says else 1)
    saying = [row.method for row in rows if row.says]
    groups = {level: _groups(cells.get(level, {}), saying) for level in LEVELS}
    return SetScores(tuple(rows), groups, _kinds(files.kinds, saying), _figure(rows))


def _groups(cells: Mapping[str, Mapping[str, Mapping[str, Value]]], saying: Sequence[str]) -> tuple[SetGroup, ...]:
    found = (SetGroup(title, {m: rows[m] for m in saying if m in rows}) for title, rows in sorted(cells.items()))
    return tuple(group for group in found if group.rows)


def _kinds(table: pd.DataFrame | None, saying: Sequence[str]) -> dict[str, tuple[KindRow, ...]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for row in [] if table is None else table.to_dict("records"):
        found.setdefault(row["method"], {}).setdefault(row["kind"], {})[row["named"]] = int(row["count"])
    return {m: tuple(KindRow(kind, named) for kind, named in sorted(found[m].items())) for m in saying if m in found}


def _figure(rows: Sequence[SetRow]) -> DotPlot | None:
    saying = [row for row in rows if row.says]
    groups = []
    for score in FIGURE_SCORES:
        dots = [_dot(row.method, COLUMNS[score], row.values[score]) for row in saying if score in row.values]
        if dots:
            groups.append(Group(COLUMNS[score], dots))
    if not groups:
        return None
    described = "Scores of sets, kinds and order per method, with intervals; the numbers are in the table above"
    return dot_plot("Sets, kinds and order", described, [row.method for row in saying], groups)


def _dot(method: str, label: str, value: Value) -> Dot:
    text = f"{method}: {label} {value.value:.2f}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.2f}, {value.high:.2f}]"
    return Dot(method, value.value, value.low, value.high, f"{text}, {value.n} {value.unit}")
