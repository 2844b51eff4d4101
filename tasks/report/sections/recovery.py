"""Recovery: what each policy spared users, how soon, and what it did wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.html.dot_plot import Dot, DotPlot, Group, dot_plot
from tasks.injection import NO_FAULT
from tasks.remediate.names import NONE, ORACLE
from tasks.remediate.tables import ALL_KINDS
from tasks.report.data import ReportData
from tasks.report.recovery import (
    BAD_LEVELS,
    CURVE_HEIGHT,
    CURVE_WIDTH,
    LANE_HEIGHT,
    LANE_LABEL,
    LANE_VALUE,
    LANE_WIDTH,
    MARKS,
    Recovery,
    Row,
    survival_plot,
    timelines,
)
from tasks.report.section import rendered, section

_SHOWN = ("summary", "harm", "refused", "windows")
AXIS_WIDTH = 230.0
_MOST_TICKS = 5


@section(link="Recovery", title="Recovery: what does acting on the answer spare users?", order=67)
def render(report: ReportData) -> Markup | None:
    recovery = report.recovery
    if recovery is None:
        return None
    policies = policies_of(recovery)
    return rendered(
        "recovery.html.j2",
        report,
        statement=statement(recovery),
        tables=policy_tables(recovery, policies),
        figure=policy_figure(recovery, policies),
        survival=survival_plot(recovery, policies),
        cases=timelines(recovery, policies),
        windows=recovery.tables.get("windows", ()),
        windows_figure=windows_figure(recovery),
        harm=recovery.tables.get("harm", ()),
        refused=recovery.tables.get("refused", ()),
        others=other_tables(recovery),
        levels=BAD_LEVELS,
        has_sli=recovery.sli is not None,
        marks=MARKS,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
        lane_label=LANE_LABEL,
        lane_width=LANE_WIDTH,
        lane_height=LANE_HEIGHT,
        lane_value=LANE_VALUE,
    )


def policies_of(recovery: Recovery) -> tuple[str, ...]:
    """Return the policies of the summary: ``none``, the others by what they left of the bad request-seconds, the
    oracle."""
    rows = [row for row in recovery.tables.get("summary", ()) if row["kind"] == ALL_KINDS]
    ratio = {str(row["policy"]): row["ratio"] for row in rows}
    names = list(ratio) or list(dict.fromkeys(str(run["policy"]) for run in recovery.runs))
    place = {NONE: 0, ORACLE: 2}
    names.sort(key=lambda name: (place.get(name, 1), _or(ratio.get(name), math.inf), name))
    return tuple(names)


def statement(recovery: Recovery) -> str:
    """Return the outcome in a few sentences."""
    faulty = {run["case_id"] for run in recovery.runs if run["kind"] != NO_FAULT}
    cases = {run["case_id"] for run in recovery.runs}
    alarmed = {run["case_id"] for run in recovery.compared}
    rows = {row["policy"]: row for row in recovery.tables.get("summary", ()) if row["kind"] == ALL_KINDS}
    said = [
        f"{len(cases)} cases, each under every policy; in {len(alarmed)} of the {len(faulty)} with a fault the alarm "
        "sounded, and only these are compared."
    ]
    acting = [row for name, row in rows.items() if name not in (NONE, ORACLE) and row["ratio"] is not None]
    if acting:
        said.append(_outcome(min(acting, key=lambda row: row["ratio"])))
    if ORACLE in rows and rows[ORACLE]["ratio"] is not None:
        said.append(f"The oracle, who knows fault and service, leaves {rows[ORACLE]['ratio']:.2f}.")
    return " ".join(said)


def _outcome(best: Row) -> str:
    interval = ""
    if best["ratio_low"] is not None and best["ratio_high"] is not None:
        interval = f" ({best['ratio_low']:.2f}–{best['ratio_high']:.2f})"
    return (
        f"Of what users suffer where nobody acts, {best['policy']} leaves {best['ratio']:.2f}{interval}; wrong "
        f"actions: {best['wrong']} of {best['actions']}."
    )


@dataclass(frozen=True)
class PolicyTable:
    """Rows of the summary in the order of the policies."""

    title: str
    cases: int
    rows: tuple[Row, ...]


def policy_tables(recovery: Recovery, policies: Sequence[str]) -> tuple[PolicyTable, ...]:
    """Return a table of all faults, then one per kind, where there is more than one."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    rows = recovery.tables.get("summary", ())
    backends = {row.get("backend", "") for row in rows}
    for row in rows:
        of_backend = f"{row['backend']}: " if len(backends) > 1 else ""
        groups.setdefault((of_backend, row["kind"]), {})[row["policy"]] = row
    kinds = {kind for _, kind in groups if kind != ALL_KINDS}
    found = []
    for (of_backend, kind), by_policy in groups.items():
        if kind == ALL_KINDS or len(kinds) > 1:
            shown = tuple(by_policy[policy] for policy in policies if policy in by_policy)
            found.append(PolicyTable(f"{of_backend}{kind}", max(row["cases"] for row in shown), shown))
    return tuple(found)


def policy_figure(recovery: Recovery, policies: Sequence[str]) -> DotPlot | None:
    """Lay out ratio, mean time to mitigate and share of wrong actions of each policy, over all faults."""
    rows = {row["policy"]: row for row in recovery.tables.get("summary", ()) if row["kind"] == ALL_KINDS}
    return _figure("Policies", {policy: rows[policy] for policy in policies if policy in rows})


def windows_figure(recovery: Recovery) -> DotPlot | None:
    """Lay out the same by how long a policy waits for evidence before it diagnoses."""
    rows = recovery.tables.get("windows", ())
    return _figure("Evidence", {f"{row['base']} {row['evidence_s']:g} s": row for row in rows})


def _figure(label: str, rows: Mapping[str, Row]) -> DotPlot | None:
    shown = list(rows)
    if len(shown) < 2:
        return None
    ratios = [
        Dot(
            policy,
            row["ratio"],
            row["ratio_low"],
            row["ratio_high"],
            f"{policy}: {row['ratio']:.2f} of the bad request-seconds of none",
            chance=1.0,
        )
        for policy in shown
        if (row := rows[policy])["ratio"] is not None
    ]
    times = [
        Dot(policy, row["mttm_s"], None, None, f"{policy}: {row['mttm_s']:.0f} s")
        for policy in shown
        if (row := rows[policy])["mttm_s"] is not None
    ]
    wrong = [
        Dot(
            policy,
            row["wrong"] / row["actions"],
            row["wrong_low"],
            row["wrong_high"],
            f"{policy}: {row['wrong']} of {row['actions']} actions are wrong",
        )
        for policy in shown
        if (row := rows[policy])["actions"]
    ]
    groups = [
        Group("bad request-s, ratio to none", ratios, _axis(ratios, 1.5)),
        Group("mean time to mitigate (s)", times, _axis(times, 1.0)),
        Group("share of wrong actions", wrong),
    ]
    described = (
        "Each policy's bad request-seconds against none, time to mitigate and wrong actions; see the table below"
    )
    return dot_plot(label, described, shown, [group for group in groups if group.dots], axis_width=AXIS_WIDTH)


def _axis(dots: Sequence[Dot], least: float) -> tuple[float, ...]:
    """Return ticks from 0 to the largest value or bound."""
    most = max([least, *(dot.value for dot in dots), *(dot.high for dot in dots if dot.high is not None)])
    raw = most / _MOST_TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= raw)
    return tuple(round(number * step, 10) for number in range(math.ceil(most / step - 1e-9) + 1))


@dataclass(frozen=True)
class OtherTable:
    """A table that has no figure of its own. ``rows``: cells as text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def other_tables(recovery: Recovery) -> tuple[OtherTable, ...]:
    """Return whatever else the experiment wrote as lists of rows."""
    found = []
    for name, rows in recovery.tables.items():
        if name in _SHOWN or not rows or not all(isinstance(row, Mapping) for row in rows):
            continue
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        cells = tuple(tuple(_cell(row.get(key)) for key in columns) for row in rows)
        found.append(OtherTable(_TITLES.get(name, name), tuple(key.replace("_", " ") for key in columns), cells))
    return tuple(found)


_TITLES = {
    "alarms": "What is compared: pairs of which the alarm sounded",
    "prevented": "What the guards stopped when the diagnosis was wrong on purpose",
}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items()) or "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
