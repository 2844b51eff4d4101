"""Undoing faults: one injection from its journal, or everything that can be found on the machine.

Safe at any time, from any process, any number of times: whoever undoes holds the journal's lock, and every step looks
before it acts. Run as a module it is the last act of an injection's dead-man timer.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.deploy.local.process import ProcessId
from tasks.deploy.local.runtime import StackRuntime, read_runtime
from tasks.inject.journal import (
    Journal,
    JournalError,
    journal_files,
    locked,
    read_journal,
    write_journal,
)
from tasks.inject.local.target import (
    DEAD_MAN_MARKER,
    MARKER,
    FaultError,
    Target,
    end_marked,
    marked_processes,
    process_name,
)
from tasks.inject.local.undo import (
    KillTracked,
    LiftMemoryLimit,
    RestoreEgress,
    RestoreQuota,
    ResumeProcesses,
    UndoStep,
)
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

UNDO_ATTEMPTS = 5
UNREADABLE_SUFFIX = ".unreadable"
STRESSOR_NAME = "stress-ng"


def undo(path: Path, journal: Journal, by: str) -> list[str]:
    """Run the undo steps and record the outcome; the caller holds the lock. Returns what is left."""
    journal.state = "undoing"
    write_journal(path, journal)
    left: list[str] = []
    for attempt in range(UNDO_ATTEMPTS):
        left = [line for step in journal.undo for line in _try(step, journal.target)]
        if not left:
            break
        time.sleep(0.1 * (attempt + 1))
    journal.undone_at = datetime.now(UTC)
    journal.recovered_by = by
    journal.state = "failed" if left else "recovered"
    if left:
        journal.reason = f"not undone: {'; '.join(left)}"
    elif not journal.target.stack_alive:
        journal.notes.append("the stack was gone, and its namespaces with it")
    write_journal(path, journal)
    return left


def recover_journal(path: Path, by: str = "recover", patience_s: float = 3) -> str | None:
    """Undo one injection, whatever state it is in. Returns what was done, None when there was nothing to do.

    Raises:
        FaultError: something of the fault is left; it is named.
    """
    try:
        journal = read_journal(path)
    except JournalError:
        return _set_aside(path) if path.exists() else None
    if not journal.open:
        end_marked(DEAD_MAN_MARKER, path)
        return None
    _ask_guardian(journal, patience_s)
    with_force = end_marked(MARKER, path)
    with locked(path):
        journal = read_journal(path)
        done = f"{journal.injection_id}: {journal.kind} on {journal.target.name}"
        if journal.open:
            left = undo(path, journal, by)
            if left or not with_force:
                raise FaultError(f"{done} is not undone: {'; '.join(left) or 'its processes do not die'}")
            if not journal.reason:
                journal.reason = f"cut short and undone by {by}"
                write_journal(path, journal)
    end_marked(DEAD_MAN_MARKER, path)
    return f"{done}: undone"


def recover(workspace: Workspace) -> list[str]:
    """Undo every fault of this workspace: by the open journals, then by looking at each service. Returns what was done.

    Raises:
        FaultError: something could not be undone; all else was.
    """
    done: list[str] = []
    failures: list[str] = []
    for path in journal_files(workspace.journal):
        try:
            did = recover_journal(path)
        except (FaultError, JournalError) as error:
            failures.append(str(error))
        else:
            done += [did] if did else []
    directory = workspace.journal.resolve()
    if marked_processes(MARKER, directory):
        done.append("processes of earlier faults ended")
        if not end_marked(MARKER, directory):
            failures.append("processes of earlier faults do not die")
    end_marked(DEAD_MAN_MARKER, directory)
    runtime = read_runtime(workspace.stack)
    if runtime is not None and runtime.alive:
        swept, unswept = _sweep(runtime)
        done += swept
        failures += unswept
    if failures:
        raise FaultError("; ".join(failures))
    return done


def residue(workspace: Workspace) -> list[str]:
    """Every trace of a fault that can be found on this machine for this workspace; empty when a case may start."""
    found = []
    for path in journal_files(workspace.journal):
        try:
            journal = read_journal(path)
        except JournalError as error:
            found.append(f"journal {error}")
            continue
        if journal.open:
            found.append(f"journal {path.name}: {journal.kind} on {journal.target.name} is {journal.state}")
    for pid, journal_file in sorted(marked_processes(MARKER, workspace.journal.resolve()).items()):
        found.append(f"process {pid} ({process_name(pid)}) of the injection {journal_file.stem} runs")
    runtime = read_runtime(workspace.stack)
    if runtime is not None and runtime.alive:
        found += stack_residue(runtime)
    return found


def stack_residue(runtime: StackRuntime) -> list[str]:
    """Traces of faults in the namespaces and cgroups of a running stack."""
    found = []
    for service in runtime.services:
        target = Target.of(runtime, service.name)
        found += [line for step in _general_steps(target) for line in _look(step, target)]
        found += [f"{target.name}: {STRESSOR_NAME} process {pid} runs" for pid in _stressors(target)]
    return found


def _try(step: UndoStep, target: Target) -> list[str]:
    try:
        step.undo(target)
        return step.left(target)
    except (FaultError, OSError, json.JSONDecodeError) as error:
        return [] if not target.stack_alive and not target.cgroup.exists else [f"{step.step}: {error}"]


def _look(step: UndoStep, target: Target) -> list[str]:
    try:
        return step.left(target)
    except (FaultError, OSError, json.JSONDecodeError) as error:
        return [f"{target.name}: cannot look for residue: {error}"] if target.stack_alive else []


def _ask_guardian(journal: Journal, patience_s: float) -> None:
    """A guardian that still works undoes best itself: it keeps the records."""
    if journal.guardian is not None and journal.guardian != ProcessId.current():
        journal.guardian.kill(signal.SIGTERM)
        journal.guardian.wait_gone(patience_s)


def _set_aside(path: Path) -> str:
    """An unreadable journal says nothing: end its processes and keep it under another name."""
    end_marked(MARKER, path)
    end_marked(DEAD_MAN_MARKER, path)
    path.replace(path.with_name(path.name + UNREADABLE_SUFFIX))
    return f"{path.name}: not readable, kept as {path.name}{UNREADABLE_SUFFIX}"


def _general_steps(target: Target) -> list[UndoStep]:
    """Steps that restore the normal state that the stack's runtime describes, whatever the fault was."""
    steps: list[UndoStep] = [RestoreEgress(), RestoreQuota(cores=target.service.cpu_cores), LiftMemoryLimit()]
    steps += [KillTracked(tracker=name) for name in target.trackers()]
    return [*steps, ResumeProcesses()]


def _stressors(target: Target) -> list[int]:
    return sorted(pid for pid in target.all_processes() if process_name(pid).startswith(STRESSOR_NAME))


def _sweep(runtime: StackRuntime) -> tuple[list[str], list[str]]:
    done: list[str] = []
    failures: list[str] = []
    for service in runtime.services:
        target = Target.of(runtime, service.name)
        for step in _general_steps(target):
            found = _look(step, target)
            if found:
                failures += _try(step, target)
                done += [f"{line}: undone" for line in found]
        for pid in _stressors(target):
            os.kill(pid, signal.SIGKILL)
            done.append(f"{target.name}: {STRESSOR_NAME} process {pid} killed")
    return done, failures


def main() -> int:
    """The dead-man's act: the journal file is in the environment."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s dead-man: %(message)s")
    path = Path(os.environ[DEAD_MAN_MARKER])
    for _ in range(10):
        try:
            done = recover_journal(path, by="the dead-man timer", patience_s=0.5)
        except (FaultError, JournalError) as error:
            log.error("%s", error)
            time.sleep(1)
        else:
            log.info("%s", done or "nothing to do")
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
