"""An injection (one fault on one service): as ``params.yaml`` asks for it, as planned, as recorded in ``case.json``.

The journal of one under way is in ``tasks.inject.journal``. Every text that names injections is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AwareDatetime, Field, model_validator

from tasks.validation import Frozen, Plain, Record, Seconds

FAULT_FREE: Final = "fault-free"
"""A case without an injection."""

NO_FAULT = "none"
"""Kind and target of a fault-free case, where cases are grouped."""


InjectionRole = Literal["root", "victim", "disturbance"]
"""What an injection is to its case: a root cause; a service that breaks later because of a root; or no cause at all."""
ROOT: Final = "root"
Verdict = Literal["effective", "ineffective", "labelled"]
"""``labelled``: nobody injected it; a person said afterwards that it was so, and no probe measured it."""


def phrase(kind: str, target: str) -> str:
    """Return the text that names an injection in a sentence; in a list it is ``str`` of the injection."""
    return f"{kind} on {target}"


class _Named:
    kind: str
    target: str
    role: InjectionRole

    def __str__(self) -> str:
        return f"{self.kind} → {self.target}" + ("" if self.role == ROOT else f" ({self.role})")

    @property
    def phrase(self) -> str:
        return phrase(self.kind, self.target)


class InjectionSpec(_Named, Frozen):
    """An injection as ``params.yaml`` asks for it.

    ``offset_s`` counts from the start of the fault window; ``duration_s`` None: to its end.
    """

    kind: str
    target: str
    role: InjectionRole = ROOT
    parameters: dict[str, Plain] = Field(default={})
    offset_s: Annotated[float, Field(ge=0, le=86_400)] = 0
    duration_s: Seconds | None = None

    def planned(self, window_s: float, parameters: Mapping[str, Any]) -> PlannedInjection:
        """Plan the injection in a fault window of ``window_s``, with these resolved ``parameters``."""
        duration_s = window_s - self.offset_s if self.duration_s is None else self.duration_s
        return PlannedInjection(
            kind=self.kind,
            target=self.target,
            role=self.role,
            parameters=dict(parameters),
            offset_s=self.offset_s,
            duration_s=duration_s,
        )


class PlannedInjection(InjectionSpec):
    """An injection of a planned case, with every default spelled out."""

    duration_s: Seconds

    @property
    def end_s(self) -> float:
        """Seconds from the start of the fault window."""
        return self.offset_s + self.duration_s

    def interval(self, window_start: datetime) -> Interval:
        """Return when it acts, for a fault window that starts at ``window_start``."""
        start = window_start + timedelta(seconds=self.offset_s)
        return Interval(start=start, end=start + timedelta(seconds=self.duration_s))


class Interval(Record):
    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.end < self.start:
            raise ValueError(f"end {self.end.isoformat()} is before start {self.start.isoformat()}")
        return self


class ProbeRecord(Record):
    """The fault's own measure of its effect: one figure before, during and after. None: could not be measured."""

    name: str
    unit: str
    before: float | None = None
    during: float | None = None
    after: float | None = None


class Injection(_Named, Record):
    """An injection that was carried out, as ``case.json`` records it.

    ``planned``: what the plan asked; ``observed``: when the executor acted and undid; ``verified``: when the probe saw
    the effect begin and the target restored. ``outcome``: a second figure that had to move, too, such as the time of a
    decode step for a throttle; None for kinds without one. ``metrics``: the metrics of the target that name the fault,
    the truth at metric level; empty if nobody knows. ``group``: the kind that telemetry can tell, such as
    ``process-kill`` for a ``pod-kill``; the kind itself where it has no other, and in cases that do not say it.
    """

    kind: str
    group: str = ""
    target: str
    role: InjectionRole = ROOT
    parameters: dict[str, Any] = Field(default={})
    executor: str | None = None
    planned: Interval
    observed: Interval | None = None
    verified: Interval | None = None
    probe: ProbeRecord | None = None
    outcome: ProbeRecord | None = None
    verdict: Verdict
    reason: str
    metrics: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _its_own_group(cls, given: Any) -> Any:
        return {**given, "group": given.get("kind")} if isinstance(given, dict) and not given.get("group") else given

    @property
    def counts(self) -> bool:
        """Whether it is part of the truth: its probe saw the effect, or a person labelled it."""
        return self.verdict != "ineffective"

    @property
    def begin(self) -> datetime:
        """The time at which the fault began: when the executor acted; if unknown, when the probe first saw the effect;
        else as planned."""
        return (self.observed or self.verified or self.planned).start


def case_label(injections: Sequence[InjectionSpec], most: int | None = None) -> str:
    """Return the text that names the faults of a case; of more than ``most``, the first and the number of others."""
    if most is not None and len(injections) > most:
        return f"{injections[0]} + {len(injections) - 1} more"
    return " + ".join(map(str, injections)) or FAULT_FREE


class GroupLabels(NamedTuple):
    """The kinds and the targets by which a case is grouped, joined by ``+``; ``none`` without injections.

    Injections that do not count stand in brackets: ``cpu-stress+(network-delay)`` is neither a ``cpu-stress`` nor a
    ``cpu-stress+network-delay``.
    """

    fault: str
    target: str

    @property
    def phrase(self) -> str:
        return phrase(self.fault, self.target)


def group_labels(counted: Sequence[Injection], others: Sequence[Injection]) -> GroupLabels:
    """Return the labels of a case with ``counted`` injections and ``others`` that do not count."""
    return GroupLabels(
        _joined(sorted(i.kind for i in counted), sorted(i.kind for i in others)),
        _joined(sorted({i.target for i in counted}), sorted({i.target for i in others})),
    )


def _joined(counted: Sequence[str], others: Sequence[str]) -> str:
    return "+".join([*counted, *(f"({name})" for name in others)]) or NO_FAULT
