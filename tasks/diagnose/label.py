"""What people say afterwards about an incident: it gets a truth, and joins the cases of a campaign."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.case import SIGNALS, Case, CaseRecord, CaseWriter, Label
from tasks.diagnose.recording import Window, clock
from tasks.errors import ParamsError
from tasks.inject.catalogue import FAULT_KINDS, fault_kind, fault_kind_names
from tasks.injection import Injection, Interval
from tasks.rca.method import UNKNOWN_KIND
from tasks.text import suggest

REASON = "labelled by a person, not probed"


def label(
    case: Case, roots: Sequence[tuple[str, str]], cases: Path, *, at: datetime | None = None, note: str = ""
) -> Case:
    """Say which (service, kind) were the roots of an incident, none if ``roots`` is empty, and publish it in ``cases``.

    Earlier labels stay in the history; the last one counts. ``at``: when it began, if not at the change that was found.

    Raises:
        ParamsError: it is no incident, or a service, a kind or the time cannot be.
        CaseError: the case does not keep the contract.
    """
    record = case.record
    if problems := _problems(record, roots, at):
        raise ParamsError(problems)
    there = cases / record.case_id
    if there.exists() and there.resolve() != case.path.resolve():
        raise ParamsError(
            [f"{case.path}: {there} is there already; correct that one with `rcarena label {there}`, or move it away"]
        )
    change = next((each.change for each in record.labels if each.change), record.phases[-1].start)
    begin = at or change
    injections = tuple(_labelled(record, service, kind, begin) for service, kind in roots)
    said = Label(labelled=datetime.now(UTC), roots=injections, note=note, change=change)
    labelled = record.model_copy(
        update={
            "injections": injections,
            "labels": (*record.labels, said),
            "phases": Window(record.phases[0].start, begin, record.phases[-1].end).phases,
        }
    )
    with CaseWriter(cases, record.case_id) as writer:
        for signal in SIGNALS:
            file = case.path / f"{signal}.parquet"
            if file.exists():
                shutil.copy2(file, writer.path(signal))
        published = writer.finish(labelled)
    if case.path.resolve() != published.path.resolve():
        shutil.rmtree(case.path)
    return published


def _problems(record: CaseRecord, roots: Sequence[tuple[str, str]], at: datetime | None) -> list[str]:
    if record.kind != "incident":
        return [f"{record.case_id}: is an experiment; its truth is what was injected"]
    problems = []
    for service, kind in roots:
        if service not in record.service_names:
            problems.append(f"--root: unknown service '{service}'; {suggest(service, record.service_names)}")
        if kind != UNKNOWN_KIND and kind not in FAULT_KINDS:
            problems.append(f"--kind: unknown kind '{kind}'; {suggest(kind, [*fault_kind_names(), UNKNOWN_KIND])}")
    start, end = record.phases[0].start, record.phases[-1].end
    if at is not None and not start < at < end:
        problems.append(f"--at: {clock(at)} is not between {clock(start)} and {clock(end)}, the telemetry of the case")
    return problems


def _labelled(record: CaseRecord, service: str, kind: str, begin: datetime) -> Injection:
    known = None if kind == UNKNOWN_KIND else fault_kind(kind)
    return Injection(
        kind=kind,
        group=known.group if known else kind,
        target=service,
        planned=Interval(start=begin, end=record.phases[-1].end),
        verdict="labelled",
        reason=REASON,
        metrics=tuple(metric.name for metric in known.metrics) if known else (),
    )
