"""The guardian: the process that carries out one injection and undoes it.

It runs in a session of its own. The end of its owner (seen by a pidfd, or by the closed pipe on standard input), a
signal, the planned end or an alarm of the executor leads to the undo. Before it acts it starts a dead-man timer: a
process that outlives both and undoes by the journal. The order is always: write the journal, start the timer, act,
undo, measure, close the journal; the journal's lock is held while acting and while undoing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.inject import catalogue
from tasks.inject.errors import FaultError, JournalError
from tasks.inject.executor import FaultExecutor
from tasks.inject.journal import CLOSED, Journal, journal_lock, read_journal, write_journal
from tasks.inject.probe import Outcome, Probe, Sample
from tasks.inject.recover import REMEMBERED_JOURNAL, try_lock, undo
from tasks.injection import ProbeRecord
from tasks.system.marked_processes import DEAD_MAN_MARKER, MARKER, end_marked
from tasks.system.process import ProcessId, python_path

log = logging.getLogger(__name__)

STRESSOR_MARGIN_S = 3.0
"""Time (s) after the planned end at which processes started by ``apply`` end by themselves."""
MIN_BASELINE_S = 0.7

Executor = FaultExecutor[Any, Any]

_SLEEP_THEN_RECOVER = """import os, sys, time
time.sleep(float(os.environ["SECONDS_TO_WAIT"]))
os.execv(sys.orig_argv[0], [sys.orig_argv[0], "-m", "tasks.inject.recover"])
"""


class SupersededError(RuntimeError):
    """Another process has changed the journal's state."""


class Guardian:
    """Carries out the injection journaled in ``path``. ``stop_reason``: why it must end early."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = read_journal(path)
        self.stop_reason: str | None = None
        self.samples: list[Sample] = []
        self._outcome: Outcome | None = None
        self._outcome_samples: list[Sample] = []
        self._next_outcome = 0.0
        self._owner_fd = _pidfd(self.journal.owner)
        self._wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wake_write)

    def run(self) -> int:
        """Carry out and undo the injection; return the exit status, 0 when nothing of the fault is left.

        Raises:
            SupersededError, JournalError, OSError: nothing was done, or another process undoes it.
        """
        with journal_lock(self.path):
            self.journal = self._check_state("planned")
            self.journal.guardian = ProcessId.current()
            start_dead_man(self.path, self.journal)
            self._write()
        try:
            self._carry_out()
        except SupersededError as error:
            log.info("the journal was closed by another process: %s", error)
        except (FaultError, JournalError, OSError) as error:
            log.error("%s", error)
            self.stop_reason = self.stop_reason or str(error)
        finally:
            left = self._finish()
        return 1 if left else 0

    def _finish(self) -> list[str]:
        """Undo an open injection and end the dead-man timer when nothing is left; return what is left.

        Raises:
            JournalError: another process holds the lock and undoes; the timer stays.
        """
        left: list[str] = []
        with try_lock(self.path):
            try:
                journal = read_journal(self.path)
            except JournalError as error:
                log.error("%s: undoing from memory", error)
                journal = self.journal
            if journal.open:
                journal.reason = journal.reason or f"cut short: {self.stop_reason or 'its guardian failed'}"
                left = undo(self.path, journal, by="guardian")
        if left:
            log.error("left to the dead-man timer: %s", "; ".join(left))
        else:
            end_marked(DEAD_MAN_MARKER, self.path)
        return left

    def _carry_out(self) -> None:
        kind = catalogue.fault_kind(self.journal.kind)
        parameters = kind.parameters.model_validate(self.journal.parameters)
        executor = kind.executor(self.journal.target.backend)(self.journal.target, parameters, self.path)
        with contextlib.ExitStack() as opened:
            try:
                probe = opened.enter_context(contextlib.closing(executor.probe()))
                self._outcome = executor.outcome()
            except (FaultError, OSError) as error:
                self._close(f"not carried out: {error}")
                return
            if self._outcome is not None:
                opened.enter_context(contextlib.closing(self._outcome))
            self._inject(executor, probe)

    def _inject(self, executor: Executor, probe: Probe) -> None:
        originals = _identities(executor) or frozenset()
        earliest = time.monotonic() + MIN_BASELINE_S
        self._sample_until(probe, max(earliest, self.journal.start_monotonic))
        if self.stop_reason or not executor.target.stack_alive:
            self._close(f"not carried out: {self.stop_reason or 'the stack ended before it began'}")
            return
        before_end = time.monotonic()
        if not self._apply(executor):
            return
        during_start = time.monotonic()
        before = self._figure(probe, before_end - probe.before_window_s, before_end)
        self._sample_fault(executor, probe, before, during_start)
        during_end = time.monotonic()
        now = _identities(executor)
        survivors = len(originals) if now is None else len(originals & now)
        with try_lock(self.path):
            self.journal = self._check_state("active", self.journal)
            undo(self.path, self.journal, by="guardian")
        after_start = time.monotonic()
        undone = self.journal.state == CLOSED
        after = self._watch_return(executor, probe, before, (during_start, during_end), after_start) if undone else None
        during = self._figure(probe, during_start, during_end)
        if self.journal.effect_seen_at is None:
            self.journal.effect_seen_at = self._seen_late(executor, before, during_start, during_end)
        self.journal.probe = ProbeRecord(name=probe.name, unit=probe.unit, before=before, during=during, after=after)
        if self._outcome is not None:
            self.journal.outcome = self._outcome_record(
                self._outcome, before_end, (during_start, during_end), after_start
            )
        self._judge(executor, len(originals), survivors)
        if undone:
            self._write()

    def _apply(self, executor: Executor) -> bool:
        with journal_lock(self.path):
            self.journal = self._check_state("planned", self.journal)
            refusal = executor.refusal()
            if refusal:
                self._close(f"not carried out: {refusal}")
                return False
            self.journal.state = "applying"
            self._write()
            try:
                run_for_s = max(1.0, self.journal.end_monotonic - time.monotonic()) + STRESSOR_MARGIN_S
                began = datetime.now(UTC)
                self.journal.executor = executor.apply(run_for_s)
            except (FaultError, OSError, subprocess.SubprocessError) as error:
                self.journal.reason = f"not carried out: {error}"
                undo(self.path, self.journal, by="guardian")
                return False
            self.journal.applied_at = max(began, executor.applied_at or began)
            self.journal.state = "active"
            self._write()
        return True

    def _sample_fault(self, executor: Executor, probe: Probe, before: float | None, since: float) -> None:
        """Sample until the planned end or a reason to stop; record when the effect is first seen."""
        next_alarm = 0.0
        while not self.stop_reason and time.monotonic() < self.journal.end_monotonic:
            if time.monotonic() >= next_alarm:
                next_alarm = time.monotonic() + executor.alarm_interval_s
                reason = executor.alarm() or self._outside_reason(executor)
                self.stop_reason = self.stop_reason or reason  # a signal may have come meanwhile
            recent = self._figure(probe, since, float("inf"), last=probe.min_samples)
            unseen = self.journal.effect_seen_at is None
            if unseen and before is not None and recent is not None and executor.shows_effect(before, recent):
                self.journal.effect_seen_at = datetime.now(UTC)
            self._sample_until(probe, min(time.monotonic() + probe.interval_s, self.journal.end_monotonic))

    def _outside_reason(self, executor: Executor) -> str | None:
        if not executor.target.stack_alive:
            return "the stack ended during the fault"
        try:
            return None if read_journal(self.path).open else "it was undone by another process"
        except JournalError as error:
            return f"its journal is lost: {error}"

    def _watch_return(
        self,
        executor: Executor,
        probe: Probe,
        before: float | None,
        during_span: tuple[float, float],
        since: float,
    ) -> float | None:
        """Sample until the probe's value is normal again, at most for ``settle_s``; return that value.

        The last samples during the fault may become known only now.
        """
        after: float | None = None
        deadline = since + executor.settle_s
        while not self.stop_reason and time.monotonic() < deadline and executor.target.stack_alive:
            self._sample_until(probe, time.monotonic() + probe.interval_s)
            during = self._figure(probe, *during_span)
            after = self._figure(probe, since, float("inf"), last=probe.min_samples)
            if before is None or (during is None and time.monotonic() > since + probe.late_s):
                break
            if during is not None and after is not None and executor.is_normal(before, during, after):
                self.journal.normal_seen_at = datetime.now(UTC)
                break
        return after

    def _seen_late(self, executor: Executor, before: float | None, start: float, end: float) -> datetime | None:
        """Return when the effect was first seen, by samples that became known only after the fault."""
        inside = [sample for sample in self.samples if sample.start >= start and sample.end <= end]
        showing = [each.end for each in inside if before is not None and executor.shows_effect(before, each.value)]
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - min(showing)) if showing else None

    def _outcome_record(
        self, outcome: Outcome, before_end: float, during: tuple[float, float], after_start: float
    ) -> ProbeRecord:
        """Return the figures of the second probe, those during and after under the conditions of those before."""
        self._outcome_samples += outcome.tick()
        reference = self._between(before_end - outcome.before_window_s, before_end, self._outcome_samples)

        def figure(start: float, end: float) -> float | None:
            values = outcome.comparable(self._between(start, end, self._outcome_samples), reference)
            return outcome.reduce(values) if values else None

        before = outcome.reduce([sample.value for sample in reference]) if reference else None
        after = figure(after_start, float("inf"))
        return ProbeRecord(name=outcome.name, unit=outcome.unit, before=before, during=figure(*during), after=after)

    def _judge(self, executor: Executor, processes: int, survivors: int) -> None:
        """Set the verdict and its reason, one sentence."""
        journal, record = self.journal, self.journal.probe
        assert record is not None
        figures = "; ".join(_figures(each) for each in (record, journal.outcome) if each is not None)
        before, during = record.before, record.during
        lost_all = executor.spares_processes and processes > 0 and survivors == 0
        if not executor.target.stack_alive:
            problem = self.stop_reason or "the stack ended before the service was back to normal"
        elif lost_all:
            problem = f"the {processes} processes of the service ended during the fault"
        elif before is None or during is None:
            problem = "the probe has no figure"
        elif not executor.shows_effect(before, during):
            problem = f"no effect (an effect is {executor.criterion})" + self._though_it_moved()
        elif unmoved := self._unmoved_outcome():
            problem = unmoved
        elif journal.normal_seen_at is None:
            problem = self.stop_reason or f"not back to normal within {executor.settle_s:g} s"
        else:
            problem = ""
        journal.verdict = "ineffective" if problem else "effective"
        if journal.state == "failed":
            return
        early = f"; ended early: {self.stop_reason}" if self.stop_reason and self.stop_reason != problem else ""
        gone = processes - survivors
        if executor.spares_processes and gone and not lost_all:
            early += f"; {gone} of {processes} processes of the service ended during the fault"
        journal.reason = (f"{problem}; {figures}" if problem else figures) + early

    def _unmoved_outcome(self) -> str | None:
        """Return what is wrong with the second figure; None when it moved or the kind has none."""
        outcome, record = self._outcome, self.journal.outcome
        if outcome is None or record is None:
            return None
        if record.before is None or record.during is None:
            when = "before" if record.before is None else "during"
            return f"{outcome.name} is not known {when} the fault ({outcome.why_unmeasured})"
        if outcome.shows_effect(record.before, record.during):
            return None
        return f"{outcome.name} did not move (an effect is {outcome.criterion})"

    def _though_it_moved(self) -> str:
        """Return what to add when the first figure did not move."""
        if self._outcome is None:
            return ""
        unmoved = self._unmoved_outcome()
        return f", and {unmoved}" if unmoved else f", though {self._outcome.name} moved"

    def _figure(self, probe: Probe, start: float, end: float, last: int | None = None) -> float | None:
        """Reduce the samples between two times, or the ``last`` of them, to a value; None if too few."""
        inside = self._between(start, end, self.samples)
        if len(inside) < (last or 1):
            return None
        return probe.reduce([sample.value for sample in inside[-(last or len(inside)) :]])

    @staticmethod
    def _between(start: float, end: float, samples: list[Sample]) -> list[Sample]:
        """Return the samples that lie between two times, in order."""
        return sorted((s for s in samples if s.start >= start and s.end <= end), key=lambda sample: sample.start)

    def _sample_until(self, probe: Probe, deadline: float) -> None:
        """Take samples until ``deadline`` or until there is a reason to stop."""
        while True:
            self.samples += probe.tick()
            if self._outcome is not None and time.monotonic() >= self._next_outcome:
                self._next_outcome = time.monotonic() + self._outcome.interval_s
                self._outcome_samples += self._outcome.tick()
            pause = min(deadline - time.monotonic(), probe.interval_s)
            if self._wait(max(pause, 0)) or pause <= 0:  # a slow probe leaves no pause, but its owner may have ended
                return

    def _wait(self, seconds: float) -> bool:
        """Sleep; wake up early and return True when there is a reason to stop."""
        watched = [0, self._wake_read, *([self._owner_fd] if self._owner_fd is not None else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._owner_fd in ready or self._owner_fd is None or (0 in ready and not os.read(0, 64)):
            self.stop_reason = self.stop_reason or "its owner ended"
        return self.stop_reason is not None

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stop_reason = self.stop_reason or f"stopped by {signal.Signals(number).name}"

    def _check_state(self, state: str, mine: Journal | None = None) -> Journal:
        """Return the journal (``mine`` if given) after checking its state on disk; the caller holds the lock.

        Raises:
            SupersededError: its state is another, or it cannot be read.
        """
        try:
            on_disk = read_journal(self.path)
        except JournalError as error:
            raise SupersededError(str(error)) from error
        if on_disk.state != state:
            raise SupersededError(f"the state is {on_disk.state}, not {state}")
        return mine or on_disk

    def _close(self, reason: str) -> None:
        """Close the journal of an injection that did nothing."""
        self.journal.state = CLOSED
        self.journal.recovered_by = "guardian"
        self.journal.reason = reason
        self._write()

    def _write(self) -> None:
        write_journal(self.path, self.journal)


def start_dead_man(path: Path, journal: Journal) -> None:
    """Start a bare interpreter that sleeps past the planned end and then becomes ``tasks.inject.recover``.

    It has a session of its own, and its paths are in its environment: its command line names neither this project nor
    the workspace, so that a kill by name does not hit it together with the campaign.
    """
    seconds = max(0.0, journal.end_monotonic - time.monotonic()) + journal.target.undo_s
    python = Path(sys.executable)
    environment = {name: value for name, value in os.environ.items() if name != MARKER}
    environment |= {
        DEAD_MAN_MARKER: str(path),
        "PYTHONPATH": python_path(),
        REMEMBERED_JOURNAL: journal.model_dump_json(),
        "SECONDS_TO_WAIT": f"{seconds:.3f}",
    }
    with path.with_suffix(".dead-man.log").open("ab") as log_file:
        subprocess.Popen(
            [f"./{python.name}", "-I", "-S", "-c", _SLEEP_THEN_RECOVER],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            cwd=python.parent,
            env=environment,
            start_new_session=True,
        )


def _pidfd(process: ProcessId) -> int | None:
    """Return a descriptor that becomes readable when ``process`` ends; None when it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.alive:
        return descriptor
    os.close(descriptor)
    return None


def _identities(executor: Executor) -> frozenset[str] | None:
    """Return the ids that should survive the fault; None when unknown."""
    try:
        return frozenset(executor.target.identities())
    except (FaultError, OSError) as error:
        log.warning("%s: cannot tell what runs: %s", executor.target.name, error)
        return None


def _figures(record: ProbeRecord) -> str:
    return (
        f"{record.name}: {_shown(record.before)} {record.unit} before, {_shown(record.during)} during, "
        f"{_shown(record.after)} after"
    )


def _shown(figure: float | None) -> str:
    return "no figure" if figure is None else f"{figure:.4g}"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s guardian: %(message)s")
    path = Path(sys.argv[1])
    try:
        return Guardian(path).run()
    except (SupersededError, JournalError, OSError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
