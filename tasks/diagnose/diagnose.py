"""From a recording to a diagnosis: find the change, record the incident, rank, explain."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.case import Case, read_case
from tasks.diagnose import incidents
from tasks.diagnose.diagnosis import SUSPECTS, Alert, Diagnosis, MethodAnswer
from tasks.diagnose.page import write_page
from tasks.diagnose.recording import CaseRecording, Recording, Window, clock
from tasks.errors import ParamsError
from tasks.params import Params, ScoreParams
from tasks.rca.features.change_point import Detection
from tasks.rca.registry import entry_of, validate_methods
from tasks.rca.run.builder import ViewFacts
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import Limits, PairPool
from tasks.rca.run.runner import CaseWork, MethodCall, run_cases

log = logging.getLogger(__name__)

Say = Callable[[str], None]
OpenPool = Callable[[Limits], PairPool]

CANDIDATES = 3
"""So many changes are looked at, the latest first."""
APART_S = 10.0
"""Telemetry of one change leaves out so much after the change before it."""
YOUNG_STEPS = 6
"""A change with fewer sampling steps after it is judged only if no other names a root."""
LEAST_STEPS = 3
"""A change with fewer sampling steps before it, in all, cannot be judged."""
LEAST_SIDE_S = 20.0
"""A change is judged by at least so much on each side, if there is as much."""


@dataclass(frozen=True)
class Question:
    """``at``: when it began, None: to be found. ``since_s``: how far back to look. ``not_before``: changes before that
    are known already."""

    methods: tuple[str, ...]
    at: datetime | None = None
    since_s: float | None = None
    not_before: datetime | None = None
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True)
class NoChange:
    """Nothing changed from ``start`` to ``end``: there is no incident to record."""

    start: datetime
    end: datetime

    @property
    def text(self) -> str:
        return (
            f"no change from {clock(self.start)} to {clock(self.end)}. What began earlier does not show: look further "
            "back with --since, or give the time with --at"
        )


def diagnose(
    recording: Recording,
    question: Question,
    params: Params,
    folder: Path,
    say: Say = log.info,
    open_pool: OpenPool = LocalPool,
    also: Sequence[Path] = (),
) -> Diagnosis | NoChange:
    """Diagnose an incident and keep it in ``folder``, under a name that is taken neither there nor in ``also``.

    Of several changes the latest counts at which a root is named, else the latest.

    Raises:
        ParamsError: an unknown method, or a time outside of the recording.
        DiagnoseError: there is no telemetry in the window.
        ExportError: a telemetry source does not answer.
        RunnerError: the processes of the methods cannot start.
    """
    began = time.monotonic()
    score = _score_params(params, question.methods)
    start, end = recording.span(question.since_s or params.diagnose.since_s)
    if question.at is not None:
        if isinstance(recording, CaseRecording) and question.at <= start:
            raise ParamsError([f"--at: {question.at.isoformat()} is not after {clock(start)}, the start of the case"])
        windows = [_given(question.at, end, params)]
    else:
        say(f"look for a change from {clock(start)} to {clock(end)}")
        windows = _around(recording.detect(start, end, score), start, end, question.not_before, params)
    if not windows:
        return NoChange(start, end)
    folder.mkdir(parents=True, exist_ok=True)
    kept: Diagnosis | None = None
    with closing(open_pool(Limits(score.timeout_s, score.memory_mb, (str(folder.absolute()),)))) as pool:
        for number, window in enumerate(windows[:CANDIDATES]):
            name = incidents.name_of(window.change, (folder, *also))
            found = _diagnose_window(recording, window, question, score, folder, say, pool, number, name)
            if kept is None:
                kept = found
            elif found.named:
                incidents.remove(folder, kept.incident)
                kept = found
            else:
                incidents.remove(folder, found.incident)
            if kept.named:
                break
    assert kept is not None
    write_page(kept, read_case(kept.case))
    kept = kept.model_copy(update={"seconds": round(time.monotonic() - began, 2)})
    incidents.keep(kept, folder)
    return kept


def check_methods(methods: tuple[str, ...], params: Params) -> None:
    """Raises ParamsError: a method is unknown, or cannot be used."""
    if problems := validate_methods(methods, params.diagnose.profile):
        raise ParamsError([problem.replace("score.methods", "--method") for problem in problems])


def _score_params(params: Params, methods: tuple[str, ...]) -> ScoreParams:
    """Return what the run layer needs. Raises ParamsError: an unknown method."""
    check_methods(methods, params)
    changes = {"methods": methods, "profile": params.diagnose.profile, "inject_time": "known"}
    return params.score.model_copy(update={**changes, "baseline_s": None, "fault_s": None})


def _diagnose_window(
    recording: Recording,
    window: Window,
    question: Question,
    score: ScoreParams,
    folder: Path,
    say: Say,
    pool: PairPool,
    number: int,
    name: str,
) -> Diagnosis:
    """Record the incident of one window and let the methods rank."""
    say(f"export: {clock(window.start)} to {clock(window.end)}")
    case = recording.record(name, window, folder)
    say(f"rank: {', '.join(question.methods)}")
    answers, facts = _answers(case, score, pool, number)
    events, problems = recording.events(case, window)
    return Diagnosis(
        incident=name,
        campaign=case.record.campaign,
        backend=recording.stack.backend,
        model=recording.stack.model,
        services=len(recording.stack.services),
        metrics=len({metric for _, metric in facts.columns}),
        start=window.start,
        change=window.change,
        end=window.end,
        detected=question.at is None,
        answers=answers,
        events=events,
        missing=(*recording.missing(case), *problems),
        notes=recording.notes,
        alerts=question.alerts,
        case=folder / name,
        page=incidents.page_file(folder, name),
    )


def _given(at: datetime, end: datetime, params: Params) -> Window:
    """Return the window around a time that somebody gave."""
    if at >= end:
        raise ParamsError([f"--at: {clock(at)} is not before {clock(end)}, the end of the telemetry"])
    own = params.diagnose
    try:
        first = at - timedelta(seconds=own.baseline_at(params.export.step_s))
    except OverflowError:
        raise ParamsError([f"--at: {at.isoformat()} is too early"]) from None
    return Window(first, at, min(end, at + timedelta(seconds=own.after_s)))


def _around(
    detection: Detection, start: datetime, end: datetime, not_before: datetime | None, params: Params
) -> list[Window]:
    """Return a window around each change, the latest first, but last those that are too young to be judged. A window
    reaches into no other change, unless it is short."""
    own = params.diagnose
    changes = [moment.to_pydatetime().astimezone(UTC) for moment in detection.changes]
    before = timedelta(seconds=own.baseline_at(params.export.step_s))
    least = timedelta(seconds=LEAST_STEPS * params.export.step_s)
    windows = []
    for i, change in enumerate(changes):
        if (not_before is not None and change <= not_before) or change < start + least:
            continue
        first = max(start, change - before)
        last = min(end, change + timedelta(seconds=own.after_s))
        if i > 0:
            clear = changes[i - 1] + timedelta(seconds=APART_S)
            first = max(first, min(clear, change - timedelta(seconds=LEAST_SIDE_S)))
        if i + 1 < len(changes):
            last = min(last, max(changes[i + 1], change + timedelta(seconds=LEAST_SIDE_S)))
        windows.append(Window(first, change, last))
    young = timedelta(seconds=YOUNG_STEPS * params.export.step_s)
    latest_first = windows[::-1]
    return sorted(latest_first, key=lambda window: window.end - window.change < young)


def _answers(case: Case, score: ScoreParams, pool: PairPool, number: int) -> tuple[tuple[MethodAnswer, ...], ViewFacts]:
    """Run every method on the case in the sandbox; answers in the order of ``score.methods``."""
    facts: list[ViewFacts] = []
    entries = {label: entry_of(label, score.profile) for label in score.methods}
    profiles = list(dict.fromkeys(entry.profile for entry in entries.values()))
    work = [
        CaseWork(
            case.record.case_id,
            case.path,
            [
                MethodCall(entry.method, entry.parameters(score.method_parameters), label)
                for label, entry in entries.items()
                if entry.profile == profile
            ],
            profile,
        )
        for profile in profiles
    ]
    results: dict[str, PairResult] = {}
    first = number * len(work)
    for outcome in run_cases(work, pool, params=score, on_view=lambda _, view: facts.append(view), first_number=first):
        results[outcome.method] = outcome.result
    answers = tuple(
        MethodAnswer(
            method=label,
            status=results[label].status,
            message=results[label].message,
            suspects=results[label].suspects[:SUSPECTS],
            findings=results[label].findings,
            coverage=results[label].coverage,
            wall_s=round(results[label].wall_s, 3),
        )
        for label in score.methods
    )
    return answers, max(facts, key=lambda view: len(view.columns))
