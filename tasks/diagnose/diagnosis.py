"""The answer to an incident, as it is kept beside its case and printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, Field

from tasks.diagnose.recording import clock
from tasks.diagnose.timeline import Event
from tasks.html.formatting import p_value
from tasks.rca.method import Coverage, Finding
from tasks.rca.run.pair import Status, Suspect
from tasks.text import some
from tasks.validation import Record

SUSPECTS = 10
"""How many suspects of each method are kept."""
_SHOWN = 5
_SENTENCES = 4
_GAPS = 6


class MethodAnswer(Record):
    """What one method says. ``findings`` None: it ranks only, and does not say whether anything is significant.
    ``coverage``: what it had to judge by, and what it lacked."""

    method: str
    status: Status
    message: str = ""
    suspects: tuple[Suspect, ...] = ()
    findings: tuple[Finding, ...] | None = None
    coverage: Coverage | None = None
    wall_s: float = 0.0

    @property
    def roots(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings or () if finding.role == "root")

    @property
    def lacked(self) -> tuple[str, ...]:
        return self.coverage.missing if self.coverage else ()


class Alert(Record):
    """An alert that asked for the diagnosis."""

    name: str
    started: AwareDatetime
    labels: dict[str, str] = Field(default={})


class Diagnosis(Record):
    """``change``: when it began; ``detected`` False: somebody said so. ``missing``: what the methods could not see."""

    incident: str
    campaign: str | None = None
    backend: str
    model: str | None = None
    services: int
    metrics: int
    start: AwareDatetime
    change: AwareDatetime
    end: AwareDatetime
    detected: bool
    answers: tuple[MethodAnswer, ...]
    events: tuple[Event, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    alerts: tuple[Alert, ...] = ()
    seconds: float = 0.0
    case: Path
    page: Path | None = None

    @property
    def speaker(self) -> MethodAnswer | None:
        """The first method that says what is significant."""
        return next((each for each in self.answers if each.status == "ok" and each.findings is not None), None)

    @property
    def roots(self) -> tuple[Finding, ...]:
        """Return the roots that the speaker names."""
        return self.speaker.roots if self.speaker else ()

    @property
    def named(self) -> bool:
        """Whether a root is named. Methods that only rank always have a first suspect: with none but those it is named
        if a change was seen, or somebody said that there was one."""
        if self.speaker is not None:
            return bool(self.roots)
        return any(each.status == "ok" and each.suspects for each in self.answers)

    def moment(self, finding: Finding) -> datetime:
        """Return when a finding began."""
        return self.change + timedelta(seconds=finding.onset_s or 0.0)

    @property
    def headline(self) -> str:
        """The answer in one line."""
        if self.roots:
            return "; ".join(f"{who(root)}: {root.kind}" for root in self.roots)
        if self.speaker is not None:
            return "nothing significant"
        if not self.named:
            return "no method could rank"
        first = next(each for each in self.answers if each.status == "ok" and each.suspects)
        return f"{first.suspects[0].service} is the first suspect of {first.method}"

    def text(self) -> str:
        """Return the diagnosis for a terminal."""
        how = "detected" if self.detected else "as given"
        lines = [
            f"{self.incident}: change at {clock(self.change)} ({how}); {self.services} services, "
            f"{self.metrics} metrics, {(self.end - self.start).total_seconds():.0f} s of telemetry",
            *(f"alert: {alert.name} since {clock(alert.started)}" for alert in self.alerts),
        ]
        lines += [f"  {note}" for note in self.notes]
        lines.append("")
        lines += self._findings()
        lines += ["", *_columns(self.answers), ""]
        lines += [f"{each.method}: {each.status}: {each.message}" for each in self.answers if each.status != "ok"]
        lines += [f"{each.method} did without: {', '.join(each.lacked)}" for each in self.answers if each.lacked]
        lines += [f"missing: {line}" for line in self.missing[:_GAPS]]
        if len(self.missing) > _GAPS:
            lines.append(f"missing: {len(self.missing) - _GAPS} more; see the page")
        if self.events:
            lines.append(f"timeline: {some([f'{e.time:%H:%M:%S} {e.service} {e.text}' for e in self.events], 4)}")
        lines.append(f"case: {self.case}")
        lines += [f"page: {self.page}"] if self.page else []
        return "\n".join(lines)

    def _findings(self) -> list[str]:
        if self.speaker is None or not self.speaker.findings:
            return [self.headline]
        lines = [] if self.roots else [self.headline]
        for finding in self.speaker.findings:
            what = "ROOT" if finding.role == "root" else "victim"
            lines.append(
                f"{what}  {who(finding)}: {finding.kind} (p {p_value(finding.significance)}, since "
                f"{self.moment(finding):%H:%M:%S})"
            )
            lines += [f"      {each.sentence}" for each in finding.evidence[:_SENTENCES]]
        return lines


def who(finding: Finding) -> str:
    """Return the service of a finding, in words where it is none."""
    return finding.service or "no service"


def _columns(answers: Sequence[MethodAnswer]) -> list[str]:
    """Return the first suspects of each method, side by side."""
    ranked = [each for each in answers if each.status == "ok"]
    if not ranked:
        return ["no ranking"]
    cells = [[each.method, *(_cell(suspect) for suspect in each.suspects[:_SHOWN])] for each in ranked]
    widths = [max(map(len, column)) for column in cells]
    rows = max(map(len, cells))
    places = ["rank", *(str(rank) for rank in range(1, rows))]
    lines = []
    for row, place in enumerate(places):
        columns = [
            (each[row] if row < len(each) else "").ljust(width) for each, width in zip(cells, widths, strict=True)
        ]
        lines.append("  ".join([f"{place:<4}", *columns]).rstrip())
    return lines


def _cell(suspect: Suspect) -> str:
    return f"{suspect.service} ({suspect.metric})" if suspect.metric else suspect.service
