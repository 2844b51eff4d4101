"""What methods say happened in a case, beside what did."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.case import CaseRecord
from tasks.injection import Injection, phrase
from tasks.rca.method import UNKNOWN_KIND, WORKLOAD_KIND, Coverage, Finding

Mark = Literal["right", "partly right", "wrong", ""]


@dataclass(frozen=True)
class Judged:
    """A finding and how it stands to the truth. ``mark``: empty if nobody can tell; ``remark``: why it is not right."""

    finding: Finding
    mark: Mark
    remark: str = ""


@dataclass(frozen=True)
class Answer:
    """What one method says about a case. Without ``findings`` it says that there is no fault. ``missed``: root causes
    that it does not name. ``coverage``: which evidence it had; None: it does not say."""

    method: str
    findings: tuple[Judged, ...]
    missed: tuple[str, ...]
    mark: Mark
    coverage: Coverage | None = None

    @property
    def longest(self) -> int:
        """The largest number of pieces of evidence for one finding."""
        return max((len(judged.finding.evidence) for judged in self.findings), default=0)


def answers(
    record: CaseRecord,
    found: Iterable[tuple[str, Sequence[Finding]]],
    *,
    include_ineffective: bool = False,
    coverage: Mapping[str, Coverage] | None = None,
) -> tuple[Answer, ...]:
    """Judge the findings of each method, in the order of ``found``. ``coverage``: by method, which evidence it had."""
    roots = record.counted(include_ineffective=include_ineffective)
    known = bool(roots) or not record.roots
    of_method = coverage or {}
    return tuple(
        replace(_answer(record, roots, method, findings, known), coverage=of_method.get(method))
        for method, findings in found
    )


def _answer(
    record: CaseRecord, roots: Collection[Injection], method: str, findings: Sequence[Finding], known: bool
) -> Answer:
    if not known:
        return Answer(method, tuple(Judged(finding, "") for finding in findings), (), "")
    named = {finding.service for finding in findings if finding.role == "root"}
    missed = tuple(dict.fromkeys(root.phrase for root in roots if root.target not in named))
    judged = tuple(_judged(record, roots, finding) for finding in findings)
    marks = {each.mark for each in judged}
    mark: Mark = "right"
    if missed or "wrong" in marks:
        mark = "partly right" if marks & {"right", "partly right"} else "wrong"
    elif "partly right" in marks:
        mark = "partly right"
    return Answer(method, judged, missed, mark)


def _judged(record: CaseRecord, roots: Collection[Injection], finding: Finding) -> Judged:
    if finding.service is None:
        if finding.kind != WORKLOAD_KIND or not record.load.parameters:
            return Judged(finding, "")
        return Judged(finding, "right") if record.load.changes else Judged(finding, "wrong", "the load did not change")
    here = [root for root in roots if root.target == finding.service]
    if finding.role == "victim":
        if here:
            return Judged(finding, "wrong", "is a root cause")
        broken = any(victim.target == finding.service for victim in record.victims())
        return Judged(finding, "right" if broken else "")
    if any(finding.kind in (root.kind, root.group) for root in here):
        return Judged(finding, "right")
    if here:
        kinds = ", ".join(root.kind for root in here)
        said = "the kind is left open" if finding.kind == UNKNOWN_KIND else "another kind"
        return Judged(finding, "partly right", f"{said}; it was {kinds}")
    for injections, remark in ((record.victims(), "a victim"), (record.disturbances(), "a disturbance")):
        for injection in injections:
            if injection.target == finding.service:
                return Judged(finding, "wrong", f"{remark}: {phrase(injection.kind, injection.target)}")
    return Judged(finding, "wrong", "not at fault")
