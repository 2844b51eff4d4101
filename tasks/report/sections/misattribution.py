"""Misattribution: the services that methods rank first, against the true root causes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.first_place import FirstPlace

NOTHING = "(nothing)"
OTHERS = "(other services)"
FIRST_PLACE_LABELS: Mapping[FirstPlace, str] = {
    "correct": "a root",
    "victim": "a victim",
    "disturbance": "the disturbance",
    "gateway": "the gateway",
    "head": "the head",
    "replica": "another replica",
    "service": "another service",
    "nothing": "nothing",
}
MAX_SERVICES = 14
"""Maximum number of services shown individually; every true root cause is."""
_LAST = (OTHERS, NOTHING)
NAMED_ROLES = ("gateway", "head")
"""Roles named in the statement: their faults resemble faults of any service behind them."""


@section(link="Misattribution", title="Misattribution: who is blamed first?", order=40)
def render(report: ReportData) -> Markup | None:
    board = report.scoreboard
    if board is None or not board.services.groups:
        return None
    found = misattribution(board.files.misattribution, board.methods)
    errors = first_places(board.files.misattribution, board.methods)
    return rendered("misattribution.html.j2", report, mis=found, errors=errors, NAMED_ROLES=NAMED_ROLES, OTHERS=OTHERS)


@dataclass(frozen=True)
class HeatCell:
    """``share`` of the row's rankings, 0 to 1; ``right``: the blamed service is a true root cause."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Blame:
    """Counts for one service over rankings that name a service: ``true``, it is a root cause; ``blamed``, it is ranked
    first; ``rightly``, both."""

    service: str
    rankings: int
    true: int
    blamed: int
    rightly: int

    @property
    def excess(self) -> float:
        """Share of rankings that blame it minus the share in which it is a root cause."""
        return (self.blamed - self.true) / self.rankings if self.rankings else 0.0


@dataclass(frozen=True)
class Misattribution:
    """Counts of services ranked first.

    ``truths``: true root causes, several of one case joined by ``+``, beside targets of injections that do not count
    in brackets. ``blamed``: services that are named first or true, rarely blamed ones together if there are many;
    ``(nothing)`` last. ``counts``: (method, fault, truth, blamed, rankings) as indices and a number.
    """

    methods: tuple[str, ...]
    faults: tuple[str, ...]
    truths: tuple[str, ...]
    blamed: tuple[str, ...]
    counts: tuple[tuple[int, int, int, int, int], ...]

    def is_right(self, truth: str, service: str) -> bool:
        return service in _root_causes(truth)

    def matrix(self, method: str | None = None) -> tuple[tuple[HeatCell, ...], ...]:
        """Return rows by ``truths``, cells by ``blamed``, for one method or for all."""
        sums = [[0] * len(self.blamed) for _ in self.truths]
        for m, _, t, b, count in self.counts:
            if method is None or self.methods[m] == method:
                sums[t][b] += count
        return tuple(
            tuple(
                HeatCell(count, round(count / (sum(row) or 1), 3), self.is_right(truth, service))
                for service, count in zip(self.blamed, row, strict=True)
            )
            for truth, row in zip(self.truths, sums, strict=True)
        )

    @property
    def nameless(self) -> int:
        """Rankings that name nobody: failures."""
        return sum(count for *_, b, count in self.counts if self.blamed[b] == NOTHING)

    def blame(self) -> tuple[Blame, ...]:
        """Return the counts of every service over all methods and faults."""
        named = [(self.truths[t], self.blamed[b], n) for _, _, t, b, n in self.counts if self.blamed[b] != NOTHING]
        rankings = sum(n for *_, n in named)
        return tuple(
            Blame(
                service=service,
                rankings=rankings,
                true=sum(n for truth, _, n in named if self.is_right(truth, service)),
                blamed=sum(n for _, first, n in named if first == service),
                rightly=sum(n for truth, first, n in named if first == service and self.is_right(truth, service)),
            )
            for service in self.blamed
            if service != NOTHING
        )

    def statement(self, roles: Mapping[str, str]) -> str:
        """Return a sentence on the service blamed most beyond its share of faults; empty without one."""
        one_by_one = (blame for blame in self.blame() if blame.service != OTHERS)
        worst = max(one_by_one, key=lambda blame: blame.excess, default=None)
        if worst is None or worst.excess <= 0:
            return ""
        role = f" ({roles[worst.service]})" if roles.get(worst.service) in NAMED_ROLES else ""
        blamed, true = worst.blamed / worst.rankings, worst.true / worst.rankings
        return (
            f"{worst.service}{role} is named first in {blamed:.0%} of the {worst.rankings} rankings, "
            f"but is at fault in {true:.0%} of them."
        )


@dataclass(frozen=True)
class FirstPlaces:
    """What the methods named first. ``kinds``: right and the errors that occur, as words; ``rows``: by method, the
    number of cases of each."""

    kinds: Mapping[FirstPlace, str]
    rows: Mapping[str, Mapping[str, int]]


def first_places(table: pd.DataFrame, methods: Sequence[str]) -> FirstPlaces | None:
    """Count what was named first; None if an older score stage did not tell errors apart, or no case is scored."""
    counts: dict[str, Counter[str]] = {method: Counter() for method in methods}
    for row in table.to_dict("records"):
        if row["error"]:
            counts[row["method"]][row["error"]] += int(row["cases"])
    kinds = {kind: label for kind, label in FIRST_PLACE_LABELS.items() if any(row[kind] for row in counts.values())}
    return FirstPlaces(kinds, {method: row for method, row in counts.items() if row}) if kinds else None


def misattribution(table: pd.DataFrame, methods: Sequence[str]) -> Misattribution:
    """Count services ranked first; ``methods`` gives the order of the methods."""
    faults, truths = (sorted(table[name].astype(str).unique()) for name in ("fault", "truth"))
    shown = _shown(table, truths)
    table = table.assign(predicted=table["predicted"].where(table["predicted"].isin([*shown, NOTHING]), OTHERS))
    blamed = sorted(shown | set(table["predicted"]), key=lambda name: (name in _LAST and 1 + _LAST.index(name), name))
    counts: Counter[tuple[int, int, int, int]] = Counter()
    for row in table.to_dict("records"):
        at = faults.index(row["fault"]), truths.index(row["truth"]), blamed.index(row["predicted"])
        counts[methods.index(row["method"]), *at] += int(row["cases"])
    summed = tuple((*at, count) for at, count in sorted(counts.items()))
    return Misattribution(tuple(methods), tuple(faults), tuple(truths), tuple(blamed), summed)


def _root_causes(truth: str) -> list[str]:
    return [part for part in truth.split("+") if not part.startswith("(")]


def _shown(table: pd.DataFrame, truths: Sequence[str]) -> set[str]:
    """Return the services shown individually: true root causes, then those blamed most often."""
    shown = {service for truth in truths for service in _root_causes(truth)}
    often: Counter[str] = Counter()
    for row in table.to_dict("records"):
        often[row["predicted"]] += row["cases"]
    for service, _ in sorted(often.items(), key=lambda entry: (-entry[1], entry[0])):
        if len(shown) < MAX_SERVICES and service != NOTHING:
            shown.add(service)
    return shown
