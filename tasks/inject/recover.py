"""Undoes faults: one injection by its journal, or every trace in a workspace.

This is safe at any time, from any process, any number of times: an undo holds the journal's lock, and every step checks
before it acts. A full, read-only or deleted disk does not prevent the undo; the journal is written if possible. Run as
a module, this is the end of an injection's dead-man timer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.backends import UnknownBackendError, faults_on, published
from tasks.backends.base import Runtime
from tasks.inject.errors import FaultError, ForeignJournalError, JournalError
from tasks.inject.executor import FaultTarget, UndoReport, UndoStepBase
from tasks.inject.journal import CLOSED, Journal, journal_files, journal_lock, read_journal, write_journal
from tasks.system.marked_processes import DEAD_MAN_MARKER, MARKER, end_marked, marked_processes
from tasks.system.process import ProcessId, process_name
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

REMEMBERED_JOURNAL = "RCARENA_JOURNAL"
"""Environment variable of a dead-man timer: a copy of the journal at its start, in case the file is lost."""
UNDO_ATTEMPTS = 5
LONGEST_PAUSE_S = 10.0
UNREADABLE_SUFFIX = ".unreadable"


def undo(path: Path, journal: Journal, by: str) -> list[str]:
    """Run the undo steps and record the outcome; the caller holds the lock.

    Returns what is left of the fault, and the journal if it cannot be written and so stays open. A journal whose
    directory was deleted does not count as open.
    """
    steps = journal.undo if journal.began else ()
    journal.state = "undoing"
    _record(path, journal)
    left: list[str] = []
    reports: list[UndoReport] = []
    for attempt in range(UNDO_ATTEMPTS):
        left = [line for step in steps for line in _try(step, journal.target, reports)]
        if not left:
            break
        time.sleep(0.1 * (attempt + 1))
    journal.undone_at = max((each.ended_at for each in reports if each.ended_at), default=datetime.now(UTC))
    journal.unconfirmed += [line for each in reports for line in each.unconfirmed if line not in journal.unconfirmed]
    journal.notes += [note for one in reports for note in (*one.notes, *one.unconfirmed) if note not in journal.notes]
    journal.recovered_by = by
    journal.state = "failed" if left else CLOSED
    if left:
        journal.reason = f"not {journal.closing}: {'; '.join(left)}"
    elif not journal.target.stack_alive:
        journal.notes.append("the stack was gone, and its namespaces with it")
    unwritten = _record(path, journal)
    return [*left, *unwritten]


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[None]:
    """Hold the journal's lock; go on without it where no lock file can be opened.

    Raises:
        JournalError: another process holds it longer than the timeout.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(journal_lock(path))
        except OSError as error:
            log.error("%s: undoing without the lock: %s", path.name, error)
        yield


def recover_journal(
    path: Path, by: str = "recover", patience_s: float | None = None, remembered: Journal | None = None
) -> str | None:
    """Undo one injection in any state; return what was done, None when there was nothing to do.

    ``patience_s``: how long a guardian that still works may take (None: as long as its backend needs);
    ``remembered``: an earlier state of the journal, used when the file is lost or unreadable.

    Raises:
        FaultError: the fault is left or may be left, or its journal cannot be closed. What only may be left is reported
            once, since the journal is closed.
        JournalError: another process holds the journal's lock.
        OSError: an unreadable journal cannot be set aside.
    """
    try:
        journal = read_journal(path)
    except ForeignJournalError:
        raise
    except JournalError as error:
        if remembered is None:
            return _set_aside(path) if path.exists() else None
        log.error("%s: undoing from memory", error)
        journal = remembered.model_copy(deep=True)
    if not journal.open:
        end_marked(DEAD_MAN_MARKER, path)
        return None
    _ask_guardian(journal, patience_s)
    with_force = end_marked(MARKER, path)
    with try_lock(path):
        with contextlib.suppress(JournalError):
            journal = read_journal(path)
        done = f"{journal.injection_id}: {journal.phrase}"
        if journal.open:
            if not journal.reason or journal.state == "failed":
                journal.reason = f"cut short and {journal.closing} by {by}" if journal.began else "did not begin"
            left = undo(path, journal, by)
            if left or not with_force:
                raise FaultError(f"{done} is not {journal.closing}: {'; '.join(left) or 'its processes do not die'}")
            if journal.unconfirmed:
                raise FaultError(f"{done} is removed, but {'; '.join(journal.unconfirmed)}")
    end_marked(DEAD_MAN_MARKER, path)
    return f"{done}: {journal.closing if journal.began else 'did not begin'}"


def recover(workspace: Workspace) -> list[str]:
    """Undo every fault of this workspace by the open journals, then every trace at the services.

    Returns what was done.

    Raises:
        FaultError: an undo failed or is unconfirmed, or a journal could not be read or closed; everything else was
            undone. No other error is raised.
    """
    done: list[str] = []
    failures: list[str] = []
    for path in journal_files(workspace.journal):
        try:
            did = recover_journal(path)
        except (FaultError, JournalError, OSError) as error:
            failures.append(str(error))
        else:
            done += [did] if did else []
    directory = workspace.journal.resolve()
    if marked_processes(MARKER, directory):
        done.append("processes of earlier faults ended")
        if not end_marked(MARKER, directory):
            failures.append("processes of earlier faults do not die")
    try:
        runtime = published(workspace.stack)
    except UnknownBackendError as error:
        failures.append(f"cannot look for residue: {error}")
    else:
        if runtime is not None and runtime.alive:
            swept, unswept = sweep(runtime)
            done += swept
            failures += unswept
    if failures:  # dead-man timers keep trying
        raise FaultError("; ".join(failures))
    end_marked(DEAD_MAN_MARKER, directory)
    return done


def residue(workspace: Workspace) -> list[str]:
    """Return every trace of a fault in this workspace; empty when a case may start.

    Raises nothing: failed checks are traces, too.
    """
    found = []
    for path in journal_files(workspace.journal):
        try:
            journal = read_journal(path)
        except JournalError as error:
            found.append(f"journal {error}")
            continue
        if journal.open:
            found.append(f"journal {path.name}: {journal.phrase} is {journal.state}")
    for pid, journal_file in sorted(marked_processes(MARKER, workspace.journal.resolve()).items()):
        found.append(f"process {pid} ({process_name(pid)}) of the injection {journal_file.stem} runs")
    try:
        runtime = published(workspace.stack)
    except UnknownBackendError as error:
        return [*found, f"cannot look for residue: {error}"]
    if runtime is not None and runtime.alive:
        found += stack_residue(runtime)
    return found


def recover_fully(workspace: Workspace, say: Callable[[str], None]) -> None:
    """Undo every fault of this workspace and say what was done. Raises FaultError when a trace of a fault stays."""
    for line in recover(workspace):
        say(line)
    left = residue(workspace)
    if left:
        raise FaultError("\n".join(["residue that could not be removed:", *left]))


def stack_residue(runtime: Runtime) -> list[str]:
    """Return every trace of a fault in a running stack; failed checks are traces, too."""
    return faults_on(runtime.backend).residue(runtime)


def sweep(runtime: Runtime) -> tuple[list[str], list[str]]:
    """Undo every trace of a fault without a journal; return what was done and what failed."""
    return faults_on(runtime.backend).sweep(runtime)


def _record(path: Path, journal: Journal) -> list[str]:
    """Write the journal; return what stays open on the disk when that fails."""
    try:
        write_journal(path, journal)
    except FileNotFoundError as error:
        log.error("%s: its directory is gone: %s", path.name, error)
    except OSError as error:
        log.error("%s: cannot be written: %s", path.name, error)
        return [f"journal {path.name} cannot be written: {error.strerror}"]
    return []


def _try(step: UndoStepBase[Any], target: FaultTarget, reports: list[UndoReport]) -> list[str]:
    """Undo one step; return what is left. Appends the platform's report to ``reports``."""
    try:
        undone = step.undo(target)
        reports += [] if undone is None else [undone]
        return step.left(target)
    except (FaultError, OSError) as error:
        return [] if target.gone else [f"{type(step).__name__}: {error}"]


def _ask_guardian(journal: Journal, patience_s: float | None) -> None:
    """Let a running guardian undo, since it also completes the record."""
    if not journal.is_here or journal.guardian is None or journal.guardian == ProcessId.current():
        return
    journal.guardian.kill(signal.SIGTERM)
    journal.guardian.wait_gone(journal.target.undo_s if patience_s is None else patience_s)


def _set_aside(path: Path) -> str:
    """End the processes of an unreadable journal and rename it."""
    end_marked(MARKER, path)
    end_marked(DEAD_MAN_MARKER, path)
    path.replace(path.with_name(path.name + UNREADABLE_SUFFIX))
    return f"{path.name}: not readable, kept as {path.name}{UNREADABLE_SUFFIX}"


def main() -> None:
    """Undo the injection named by the environment (journal file and content); retry until it is undone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s dead-man: %(message)s")
    path = Path(os.environ[DEAD_MAN_MARKER])
    remembered = Journal.model_validate_json(os.environ[REMEMBERED_JOURNAL])
    pause_s = 1.0
    while True:
        try:
            done = recover_journal(path, by="the dead-man timer", patience_s=0.5, remembered=remembered)
        except (FaultError, JournalError, OSError) as error:
            log.error("%s; trying again in %g s", error, pause_s)
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
        else:
            log.info("%s", done or "nothing to do")
            return


if __name__ == "__main__":
    main()
