"""The truth of a case: which services, and which of their metrics, were really broken, and whether the case counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.case import CaseRecord
from tasks.injection import FAULT_FREE, Injection
from tasks.stack import Role

Column = tuple[str, str]
"""(service, metric)."""


@dataclass(frozen=True)
class MetricTruth:
    """The answer of one case among its metrics.

    ``columns``: the candidates, what the methods see. ``causes``: for each root cause the columns that name it; no
    column names two. ``excluded``: why the case is not scored at metric level; empty if it is.
    """

    columns: frozenset[Column]
    causes: tuple[frozenset[Column], ...]
    excluded: str

    @property
    def candidates(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Candidate:
    """A service that can be the root cause. ``columns``: how many of the metrics that the methods see are its own."""

    service: str
    role: Role
    columns: int


@dataclass(frozen=True)
class Broken:
    """A service that an injection really broke, with the kind of the fault and the group of kinds that telemetry can
    tell. ``begin_s``: seconds after the inject time."""

    service: str
    kind: str
    group: str
    begin_s: float


@dataclass(frozen=True)
class Truth:
    """The answer of one case.

    ``services``: root causes, each once; empty for a case without an effective root. ``fault``,
    ``target``: ``GroupLabels``. ``excluded``: why the case is not scored; empty if it is.
    ``notes``: roots that were left out of the truth. ``profile``: what the metrics are seen under.
    ``roots``, ``victims``: what broke, in order of time. ``disturbed``: services that a disturbance hit.
    ``scenario``, ``stratum``: groups of cases; empty if the case belongs to none. ``watched_s``: duration of the
    telemetry after the inject time. ``incident``: a person labelled it, no probe confirmed it.
    """

    case: str
    candidates: tuple[Candidate, ...]
    services: tuple[str, ...]
    metrics: MetricTruth
    fault: str
    target: str
    excluded: str
    notes: tuple[str, ...]
    profile: str = ""
    roots: tuple[Broken, ...] = ()
    victims: tuple[Broken, ...] = ()
    disturbed: frozenset[str] = frozenset()
    scenario: str = ""
    stratum: str = ""
    watched_s: float = 0.0
    incident: bool = False

    @property
    def negative(self) -> bool:
        """There is no root cause to find, and none was tried."""
        return self.excluded == FAULT_FREE

    def role_of(self, service: str) -> Role:
        return next(candidate.role for candidate in self.candidates if candidate.service == service)


def truth_of(
    record: CaseRecord,
    *,
    include_ineffective: bool,
    columns: Iterable[Column] = (),
    profile: str = "",
    stratum: str = "",
    fault_s: float | None = None,
) -> Truth:
    """Return the truth of a case: the targets of its effective roots, or of all with ``include_ineffective``."""
    counted = record.counted(include_ineffective=include_ineffective)
    dropped = [i for i in record.roots if i not in counted]
    labels = record.labels_of(counted)
    grouped = f"; the case is grouped as {labels.phrase}" if counted else ""
    services = tuple(sorted({injection.target for injection in counted}))
    notes = tuple(
        f"{record.case_id}: {injection.phrase} was not effective ({injection.reason}){grouped}" for injection in dropped
    )
    if not record.roots:
        excluded = FAULT_FREE
    elif not counted:
        excluded = "no effective injection"
    else:
        excluded = ""
    seen = frozenset(columns)
    origin = record.injection_time_of(counted)
    watched_s = max((max(phase.end for phase in record.phases) - origin).total_seconds(), 0.0)
    columns_of = Counter(service for service, _ in seen)
    return Truth(
        case=record.case_id,
        candidates=tuple(Candidate(s.name, s.role, columns_of[s.name]) for s in record.stack.services),
        services=services,
        metrics=_metric_truth(counted, seen, excluded),
        fault=labels.fault,
        target=labels.target,
        excluded=excluded,
        notes=notes,
        profile=profile,
        roots=_broken(counted, origin),
        victims=_broken(record.victims(), origin),
        disturbed=frozenset(injection.target for injection in record.disturbances()),
        scenario=record.scenario or "",
        stratum=stratum,
        watched_s=min(watched_s, fault_s or watched_s),
        incident=record.kind == "incident",
    )


def _broken(injections: Iterable[Injection], origin: datetime) -> tuple[Broken, ...]:
    return tuple(
        Broken(each.target, each.kind, each.group, (each.begin - origin).total_seconds())
        for each in sorted(injections, key=lambda injection: injection.begin)
    )


def _metric_truth(injections: Sequence[Injection], columns: frozenset[Column], excluded: str) -> MetricTruth:
    """Exclude a case with an injection without visible metrics: a method that found it could not be credited."""
    for injection in injections:
        if not injection.metrics:
            excluded = excluded or f"the metrics of {injection.kind} are not known"
        elif not _named(injection) & columns:
            excluded = excluded or f"no metric of {injection.kind} is visible"
    if excluded:
        return MetricTruth(columns, (), excluded)
    return MetricTruth(columns, _disjoint([_named(injection) & columns for injection in injections]), "")


def _named(injection: Injection) -> set[Column]:
    return {(injection.target, metric) for metric in injection.metrics}


def _disjoint(groups: Iterable[set[Column]]) -> tuple[frozenset[Column], ...]:
    """Join groups that share a column: one entry of a ranking must not count as two root causes."""
    causes: list[set[Column]] = []
    for group in groups:
        joined = set(group)
        for cause in [cause for cause in causes if cause & joined]:
            joined |= cause
            causes.remove(cause)
        causes.append(joined)
    return tuple(frozenset(cause) for cause in sorted(causes, key=sorted))
