"""Starts injections and follows them, for cases and `rcarena inject`.

::

    with start_injection(runtime, workspace, planned, injection_id="case-3.0", window_start=at) as injection:
        ...
        record = injection.wait()

Every error of a fault is a ``FaultError``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.backends import faults_on
from tasks.backends.base import Runtime
from tasks.inject import catalogue
from tasks.inject.errors import FaultError, InjectionError, InjectionRefusedError, JournalError
from tasks.inject.journal import Journal, journal_files, journal_lock, journal_path, read_journal, write_journal
from tasks.inject.recover import recover_journal
from tasks.injection import Injection, Interval, PlannedInjection
from tasks.system.marked_processes import MARKER
from tasks.system.process import ProcessId, machine_id, python_path
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

STOP_MARGIN_S = 3.0
LEAD_S = 3.0
"""Start an injection this long before its ``start_at``: the guardian starts and the probe measures "before"."""

PRIORITY = ("nice", "-n", "-10")
"""Priority of the guardian, which must act in time on a machine loaded by its own fault."""


class ActiveInjection:
    """A running injection. As a context manager it is stopped at the end of the block."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], planned: Journal) -> None:
        self.path = path
        self._process = process
        self._planned = planned

    def __enter__(self) -> ActiveInjection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def done(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float | None = None) -> Injection:
        """Block until the fault is undone and its probe has measured again.

        Raises:
            TimeoutError: not yet (only with ``timeout_s``).
            FaultError: something of the fault is left, or its journal is lost or cannot be written; it is named.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.path.stem} is still under way") from error
        self._release()
        by = f"its owner (the guardian ended with status {self._process.returncode})"
        return injection_record(_closed(self.path, by, self._planned))

    def stop(self) -> Injection:
        """Undo now and return the record (that of the finished injection when it was done already).

        Raises:
            FaultError: something of the fault is left, or its journal is lost or cannot be written; it is named.
        """
        if not self.done:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._planned.target.undo_s + STOP_MARGIN_S)
        if not self.done:
            self._process.kill()
        return self.wait()

    def _release(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def start_injection(
    runtime: Runtime, workspace: Workspace, planned: PlannedInjection, *, injection_id: str, window_start: datetime
) -> ActiveInjection:
    """Journal the injection and start its guardian, which acts at its time (at once when that has passed).

    The fault ends with its window, ``stop`` or this process, whichever comes first. ``injection_id`` names
    the journal file; offsets count from ``window_start``.

    Raises:
        InjectionRefusedError: the injection is invalid on this stack; retrying does not help.
        InjectionError: an open injection conflicts, or the journal cannot be written. Nothing was started.
    """
    roles = {service.name: service.role for service in runtime.services}
    where, when = f"injection {injection_id}", planned.interval(window_start)
    refused = catalogue.validate_injection(
        planned.kind, planned.target, planned.parameters, roles, f"{where}.target", backend=runtime.backend
    )
    if refused:
        raise InjectionRefusedError(refused)
    problems = []
    if when.end <= datetime.now(UTC):
        problems.append(f"{where}: its window ended at {when.end.isoformat()}")
    if not runtime.alive:
        problems.append(f"{where}: the stack does not run")
    if problems:
        raise InjectionError(problems)
    try:
        path = journal_path(workspace.journal.resolve(), injection_id)
    except ValueError as error:
        raise InjectionError([str(error)]) from error
    journal = _new_journal(runtime, planned, when.start, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with journal_lock(path.with_name("directory")):
            in_the_way = _conflicts(journal, path)
            if in_the_way:
                raise InjectionError(in_the_way)
            write_journal(path, journal)
        return ActiveInjection(path, _start_guardian(path), journal)
    except (JournalError, OSError) as error:
        raise InjectionError([f"{where}: {error}"]) from error


def injection_record(journal: Journal) -> Injection:
    """Return the record of a closed injection for ``case.json``."""
    kind = catalogue.fault_kind(journal.kind)
    return Injection(
        kind=kind.name,
        group=kind.group_on(journal.target.backend),
        target=journal.target.name,
        role=journal.role,
        parameters=journal.parameters,
        executor=journal.executor,
        planned=Interval(start=journal.start_at, end=journal.end_at),
        observed=_interval(journal.applied_at, journal.undone_at),
        verified=_interval(journal.effect_seen_at, journal.normal_seen_at),
        probe=journal.probe,
        outcome=journal.outcome,
        verdict=journal.verdict,
        reason="; ".join((journal.reason, *journal.notes)),
        metrics=tuple(metric.name for metric in kind.metrics),
    )


def _new_journal(runtime: Runtime, planned: PlannedInjection, start_at: datetime, path: Path) -> Journal:
    kind = catalogue.fault_kind(planned.kind)
    target = faults_on(runtime.backend).target(runtime, planned.target)
    parameters = catalogue.resolve_parameters(planned.kind, planned.parameters, target.backend)
    until_start = (start_at - datetime.now(UTC)).total_seconds()
    return Journal(
        injection_id=path.stem,
        kind=planned.kind,
        role=planned.role,
        parameters=parameters.model_dump(mode="json"),
        target=target,
        start_at=start_at,
        duration_s=planned.duration_s,
        start_monotonic=time.monotonic() + until_start,
        resources=tuple(sorted(kind.resources)),
        undo=kind.executor(target.backend)(target, parameters, path).undo_steps(),
        machine=machine_id(),
        owner=ProcessId.current(),
    )


def _conflicts(journal: Journal, path: Path) -> list[str]:
    """Return the open injections that conflict with this one."""
    problems = []
    for other_path in journal_files(path.parent):
        try:
            other = read_journal(other_path)
        except JournalError as error:
            problems.append(f"journal {error}; run `rcarena inject --recover`")
            continue
        if not other.open:
            continue
        if other_path == path:
            problems.append(f"injection {journal.injection_id} is open ({other.state}); run `rcarena inject --recover`")
            continue
        shared = set(other.resources) & set(journal.resources)
        apart = journal.start_at >= other.end_at or other.start_at >= journal.end_at
        if shared and other.target.name == journal.target.name and not apart:
            clash = catalogue.clash_text(journal.kind, other.kind, other.injection_id, shared, journal.target.name)
            problems.append(f"injection {journal.injection_id}: {clash}")
    return problems


def _start_guardian(path: Path) -> subprocess.Popen[bytes]:
    """Start the guardian. Raises OSError when it does not start; the journal is removed then."""
    environment = os.environ | {MARKER: str(path), "PYTHONPATH": python_path()}
    try:
        with path.with_suffix(".log").open("ab") as log_file:
            return subprocess.Popen(
                [*PRIORITY, sys.executable, "-m", "tasks.inject.guardian", str(path)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                env=environment,
                start_new_session=True,
            )
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _closed(path: Path, by: str, planned: Journal) -> Journal:
    """Return the journal after the end of the guardian; undo here if the guardian was killed.

    Raises:
        FaultError: something of the fault is left, or the journal is lost or cannot be written.
    """
    try:
        lost: JournalError | None = None
        if read_journal(path).open:
            log.warning("%s: the guardian ended before it had undone the fault: undoing it now", path.stem)
    except JournalError as error:
        lost = error
    try:
        recover_journal(path, by, remembered=planned)
        if lost is None:
            return read_journal(path)
    except (JournalError, OSError) as error:
        raise FaultError(f"{path.stem}: {error}") from error
    raise FaultError(f"{path.stem} is undone, but its record is lost: {lost}") from lost


def _interval(start: datetime | None, end: datetime | None) -> Interval | None:
    return Interval(start=start, end=end) if start is not None and end is not None and start <= end else None
