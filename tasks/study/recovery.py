"""The tables of recovery experiments as Markdown, from the files that `rcarena remediate` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.remediate.names import NONE, ORACLE
from tasks.remediate.stage import read_tables
from tasks.remediate.tables import ALL_KINDS
from tasks.study.figures import Share, short
from tasks.study.plan import Goals
from tasks.study.tables import table
from tasks.text import short_p

Row = Mapping[str, Any]
_ABSENT = "–"


class RecoveryTables:
    """``folders``: label -> folder with the results of an experiment."""

    def __init__(self, folders: Mapping[str, Path], goals: Goals | None = None) -> None:
        self._goals = goals or Goals()
        self._tables = {label: found for label, folder in folders.items() if (found := read_tables(folder)) is not None}

    def __contains__(self, label: str) -> bool:
        """Say whether there is an experiment of this label."""
        return label in self._tables

    def rows(self, label: str, name: str) -> Sequence[Row]:
        """Return one of the tables that an experiment wrote; empty if it did not."""
        return self._tables[label].get(name, [])

    def row(self, label: str, policy: str, kind: str = ALL_KINDS) -> Row:
        """Return the summary of one policy. Raises KeyError: there is none."""
        for row in self.rows(label, "summary"):
            if (row["policy"], row["kind"]) == (policy, kind):
                return row
        raise KeyError(f"{label}: no policy {policy} on {kind}")

    def cases(self, label: str) -> int:
        """Return in how many cases with a fault the alarm sounded where nobody acts."""
        return int(self.row(label, NONE)["cases"])

    def pairs_of(self, label: str) -> int:
        """Return how many faults every policy had, with an alarm or without."""
        row = self.row(label, NONE)
        return int(row.get("pairs") or row["cases"])

    def ratio(self, label: str, policy: str, kind: str = ALL_KINDS) -> str:
        """Return bad request-seconds against none with their interval: ``.70 [.55, .86]``."""
        return _ratio(self.row(label, policy, kind))

    def wrong(self, label: str, policy: str, kind: str = ALL_KINDS) -> str:
        """Return the share of wrong actions with its interval and count."""
        return _wrong(self.row(label, policy, kind))

    def mttm(self, label: str, policy: str, kind: str = ALL_KINDS) -> str:
        """Return the mean time to mitigate and what it is of that without actions."""
        return _time(self.row(label, policy, kind))

    def goals(self, label: str, policy: str) -> str:
        """What acting was to reach, and what it does. Met surely: the whole interval does."""
        row, most, wrong = self.row(label, policy), self._goals.recovery_ratio, self._goals.wrong_actions
        share = row["wrong"] / row["actions"] if row["actions"] else None
        figures = (
            ("bad request-seconds, of those without", most, _ratio(row), row["ratio"], row["ratio_high"]),
            ("MTTM, of that without", most, _time(row), row["rmst_ratio"], row["rmst_high"]),
            ("the same until it lasts", most, _lasting(row), row.get("lasting_ratio"), row.get("lasting_high")),
            ("wrong actions", wrong, _wrong(row), share, row["wrong_high"]),
        )
        cells = ((name, f"≤ {short(goal)}", said, _met(value, high, goal)) for name, goal, said, value, high in figures)
        return table(("goal", "", "reached", "met"), cells)

    def policies(self, label: str) -> str:
        """Every policy over all faults, what it leaves: ``none`` first, the oracle last."""
        rows = [row for row in self.rows(label, "summary") if row["kind"] == ALL_KINDS]
        place = {NONE: 0, ORACLE: 2}
        rows.sort(key=lambda row: (place.get(row["policy"], 1), row["ratio"] is None, row["ratio"]))
        cells = (
            (
                f"`{row['policy']}`",
                _number(row["bad_request_s"], ".1f"),
                _ratio(row) if row["policy"] != NONE else "1",
                _ABSENT if row["p_holm"] is None else short_p(row["p_holm"]),
                _time(row),
                _lasting(row),
                f"{row['acted']} of {row['cases']}",
                _wrong(row),
                _number(row["gain"], ".2f"),
            )
            for row in rows
        )
        head = ("policy", "bad request-seconds", "ratio to `none`", "p (Holm)", "MTTM (of that without)")
        return table((*head, "until it lasts", "acted on", "wrong actions", "share of the oracle's gain"), cells)

    def kinds(self, label: str, *policies: str) -> str:
        """Ratio, time and wrong actions of some policies on each kind; the last column: the first one's ratio over all
        faults of the kind, with an alarm or without."""
        kinds = list(dict.fromkeys(row["kind"] for row in self.rows(label, "summary") if row["kind"] != ALL_KINDS))
        head = ["kind", "cases"]
        for policy in policies:
            head += [f"`{policy}`: ratio", "MTTM", "wrong"]
        head.append(f"`{policies[0]}`: ratio, of all")
        return table(head, (self._of_kind(label, kind, policies) for kind in sorted(kinds)))

    def _of_kind(self, label: str, kind: str, policies: Sequence[str]) -> list[object]:
        cells: list[object] = [f"`{kind}`", self.row(label, NONE, kind)["cases"]]
        for policy in policies:
            row = self.row(label, policy, kind)
            cells += [_ratio(row), _time(row), f"{row['wrong']} of {row['actions']}"]
        first = self.row(label, policies[0], kind)
        of_all = {name: first.get(name.replace("ratio", "ratio_all")) for name in ("ratio", "ratio_low", "ratio_high")}
        return [*cells, f"{_ratio(of_all)} ({first['pairs']})" if "pairs" in first else _ABSENT]

    def pairs(self, label: str, *policies: str) -> str:
        """Bad request-seconds of some policies on each kind, with intervals where there are enough pairs."""
        kinds = sorted({row["kind"] for row in self.rows(label, "summary")} - {ALL_KINDS})
        cells = (
            (
                f"`{kind}`",
                row["cases"],
                f"`{policy}`",
                _number(row["bad_request_s"], ".1f"),
                _ratio(row) if policy != NONE else "1",
                _number(row["detect_s"], ".0f"),
                _number(row["localise_s"], ".0f"),
                f"{row['wrong']} of {row['actions']}",
            )
            for kind in (*kinds, ALL_KINDS)
            for policy in (NONE, *policies)
            for row in [self.row(label, policy, kind)]
        )
        head = (
            "kind",
            "pairs",
            "policy",
            "bad request-seconds",
            "ratio",
            "alarm (s)",
            "diagnosis (s)",
            "wrong actions",
        )
        return table(head, cells)

    def harm(self, label: str) -> str:
        """How often each policy acts where nothing is broken."""
        cells = (
            (f"`{row['policy']}`", row["scenario"], row["alarms"], Share(row["acted"], row["cases"]))
            for row in self.rows(label, "harm")
        )
        return table(("policy", "cases of", "with an alarm", "acted on"), cells)

    def plain(self, label: str, name: str, *columns: str) -> str:
        """Return another table as it was written, all of its columns or only these."""
        rows = self.rows(label, name)
        shown = columns or tuple(dict.fromkeys(key for row in rows for key in row))
        head = [each.replace("_", " ") for each in shown]
        return table(head, ([_cell(row.get(key)) for key in shown] for row in rows))


def _ratio(row: Row) -> str:
    if row["ratio"] is None:
        return _ABSENT
    if row["ratio_low"] is None or row["ratio_high"] is None:
        return short(row["ratio"])
    return f"{short(row['ratio'])} [{short(row['ratio_low'])}, {short(row['ratio_high'])}]"


def _time(row: Row) -> str:
    """``80 s (.73 [.60, .85])``: the mean time to mitigate, and its ratio to that without actions."""
    if row["mttm_s"] is None:
        return _ABSENT
    time = f"{row['mttm_s']:.0f} s"
    if row["policy"] == NONE or row["rmst_ratio"] is None:
        return time
    interval = "" if row["rmst_low"] is None else f" [{short(row['rmst_low'])}, {short(row['rmst_high'])}]"
    return f"{time} ({short(row['rmst_ratio'])}{interval})"


def _lasting(row: Row) -> str:
    """``80 s (.73 [.60, .85])``: the mean time until users have to the end what they are promised."""
    names = ("mttm_s", "lasting_s"), *((f"rmst_{each}", f"lasting_{each}") for each in ("ratio", "low", "high"))
    return _time({"policy": row["policy"], **{first: row.get(lasting) for first, lasting in names}})


def _met(value: float | None, high: float | None, goal: float) -> str:
    if value is None:
        return _ABSENT
    if value > goal:
        return "**no**"
    return "surely" if high is not None and high <= goal else "yes, its interval not"


def _wrong(row: Row) -> str:
    return str(Share(row["wrong"], row["actions"]))


def _number(value: float | None, form: str) -> str:
    return _ABSENT if value is None else format(value, form)


def _cell(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items()) or _ABSENT
    return f"{value:.3g}" if isinstance(value, float) else str(value)
