"""Runs pairs in child processes of this machine, under limits.

A method that hangs, grows without bound, crashes or raises costs its own pair and nothing else. Workers are kept until
one misbehaves, so the start-up of an interpreter is not paid per pair.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from tasks.imports import imported_packages
from tasks.rca.method import METHODS, Coverage, Evidence, Finding
from tasks.rca.run.child import MIB, START_TIMEOUT_S, Child, Confinement, Ready, RunnerError
from tasks.rca.run.pair import MetricSuspect, PairResult, Status, Suspect
from tasks.rca.run.pool import TICK_S, Limits, Outcome, PairJob
from tasks.rca.run.sandbox import LEVELS, Level, visible_paths
from tasks.rca.run.worker import NewView, Started
from tasks.system.process import usable_cpus
from tasks.system.scratch import scratch_directory

_WORKER = "tasks.rca.run.worker"
_ANSWERS = (Started, PairResult, Suspect, MetricSuspect, Finding, Evidence, Coverage)


class LocalPool:
    """Worker processes on this machine, by default one per CPU that this process may use."""

    def __init__(self, limits: Limits, workers: int | None = None) -> None:
        self.size = workers or usable_cpus()
        self._place = WorkerPlace(limits, METHODS.other_modules)
        self._workers: list[PairWorker] = []

    @property
    def busy(self) -> int:
        return len(self._working)

    @property
    def busy_here(self) -> int:
        return self.busy

    @property
    def _working(self) -> list[PairWorker]:
        return [worker for worker in self._workers if worker.job is not None]

    def has_room(self) -> bool:
        return self.busy < self.size

    def start(self, job: PairJob) -> None:
        self._free_worker(job).assign(job)

    def wait(self, timeout_s: float, also: Sequence[Connection]) -> list[Outcome]:
        working = self._working
        wait([*(worker.child.connection for worker in working), *also], timeout=timeout_s)
        outcomes = [outcome for worker in working if (outcome := worker.poll()) is not None]
        self._workers = [worker for worker in self._workers if worker.child.alive]
        return outcomes

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._place.close()

    def _free_worker(self, job: PairJob) -> PairWorker:
        """Return an idle worker, if possible one that has the view already."""
        free = [worker for worker in self._workers if worker.job is None]
        for worker in sorted(free, key=lambda worker: worker.view_number != job.view_number):
            if worker.child.running():
                return worker
            worker.kill()
            self._workers.remove(worker)
        self._workers.append(PairWorker(self._place))
        return self._workers[-1]


class WorkerPlace:
    """What the workers of this machine share: the paths that they may read, a scratch folder for each, their
    confinement."""

    def __init__(self, limits: Limits, modules: Collection[str] = ()) -> None:
        self.limits = limits
        self.levels: tuple[Level, ...] = LEVELS
        """Those to try; once a worker has started, the one that it got."""
        self._files = ExitStack()
        self._folder = self._files.enter_context(scratch_directory("workers", Path(tempfile.gettempdir())))
        hidden = [Path(path) for path in limits.hidden]
        self._hidden = tuple(sorted({str(name) for path in hidden for name in (path.absolute(), path.resolve())}))
        self._paths = visible_paths(self._hidden, [*modules, *imported_packages(*modules)])

    def confinement(self) -> Confinement:
        scratch = tempfile.mkdtemp(dir=self._folder)
        return Confinement(self._paths, self._hidden, scratch, self.levels, self.limits.memory_mb)

    def settle(self, level: Level | None) -> None:
        """Confine every further worker as the first one that started."""
        if level is not None:
            self.levels = (level,)

    def close(self) -> None:
        self._files.close()


@dataclass(frozen=True)
class _Usage:
    """CPU seconds and resident MiB of a worker and its descendants; CPU time of those that have ended is included."""

    cpu_s: float
    resident_mb: float


class PairWorker:
    """One child process and the pair it is working on."""

    def __init__(self, place: WorkerPlace) -> None:
        self.place = place
        self.limits = place.limits
        self.job: PairJob | None = None
        self.child = Child(_WORKER, _ANSWERS, place.confinement())
        self.view_number: int | None = None
        self._ready = False
        self._level: Level | None = None
        self._began = time.monotonic()
        self._measured = self._began
        self._peak_mb = 0.0
        self._limit_s = START_TIMEOUT_S
        self._cpu_before = 0.0
        self._cpu_s = 0.0
        self._advanced = (self._began, 0.0)

    def assign(self, job: PairJob) -> None:
        """Take a pair. The clock starts when the worker has started."""
        self.job = job
        self._begin()

    def poll(self) -> Outcome | None:
        """Return the outcome of the pair, if there is one by now."""
        try:
            if self.child.connection.poll():
                message = self.child.receive()
                if isinstance(message, Ready):
                    self._ready = True
                    self._level = message.level
                    self.place.settle(message.level)
                    self._begin()
                    return None
                if isinstance(message, Started):
                    self._started(message.cpu_s)
                    return None
                return self._finished(message)
        except pickle.UnpicklingError as error:
            return self._stopped("invalid", f"sent something that is no result: {error}")
        except (EOFError, OSError):
            return self._crashed()
        if not self.child.running():
            return self._crashed()
        now = time.monotonic()
        if not self._ready:
            if now - self._began > START_TIMEOUT_S:
                raise RunnerError(f"a worker did not start within {START_TIMEOUT_S:g} s")
            return None
        if now - self._measured >= TICK_S:
            self._measured = now
            return self._measure(now)
        return None

    def kill(self) -> None:
        """End the worker and its descendants."""
        if self.child.alive:
            with suppress(psutil.Error):
                for process in [process for process in _family(self.child.pid) if process.pid != self.child.pid]:
                    process.kill()
        self.child.kill()

    def _begin(self) -> None:
        self._peak_mb = 0.0
        self._began = self._measured = time.monotonic()
        if self._ready:
            self._limit_s = START_TIMEOUT_S
            self._count_from(self._usage().cpu_s)
            self._send_job()

    def _started(self, cpu_s: float) -> None:
        self._limit_s = self.limits.timeout_s
        self._began = time.monotonic()
        self._count_from(cpu_s)

    def _count_from(self, cpu_s: float) -> None:
        self._cpu_before, self._cpu_s = cpu_s, 0.0
        self._advanced = (self._began, 0.0)

    def _measure(self, now: float) -> Outcome | None:
        """End the pair if it has used more than it may, and return its outcome."""
        usage = self._usage()
        self._cpu_s = max(self._cpu_s, usage.cpu_s - self._cpu_before)
        self._peak_mb = max(self._peak_mb, usage.resident_mb)
        if self._cpu_s > self._limit_s:
            return self._out_of_time()
        if self._peak_mb > self.limits.memory_mb:
            return self._stopped("memory", "")
        since, cpu_s = self._advanced
        if self._cpu_s - cpu_s > self.limits.stalled_s / 100:
            self._advanced = (now, self._cpu_s)
        elif now - since > self.limits.stalled_s:
            return self._stopped("timeout", f"stalled: waited for {self.limits.stalled_s:g} s and hardly used a CPU")
        return None

    def _send_job(self) -> None:
        assert self.job is not None
        try:
            if self.job.view_number != self.view_number:
                self.child.connection.send(NewView(self.job.view))
                self.view_number = self.job.view_number
            self.child.connection.send(self.job.job)
        except OSError:
            return  # it died; poll reports it

    def _finished(self, result: PairResult) -> Outcome:
        usage = self._usage()
        self._cpu_s = max(result.cpu_s, usage.cpu_s - self._cpu_before)
        if self._cpu_s > self.limits.timeout_s:
            return self._out_of_time()  # it was quicker than we looked: this must not decide
        outcome = self._outcome(result)
        self.job = None
        if usage.resident_mb > self.limits.memory_mb / 2:  # what it holds on to must not count against the next pair
            self.kill()
        return outcome

    def _out_of_time(self) -> Outcome:
        return self._stopped("timeout", f"needed more than {self._limit_s:g} s of CPU time")

    def _crashed(self) -> Outcome:
        reason = self.child.ending()
        if not self._ready:
            lines = self.child.errors().splitlines()
            raise RunnerError(f"a worker cannot start: {lines[-1] if lines else reason}")
        return self._stopped("crash", reason)

    def _stopped(self, status: Status, message: str) -> Outcome:
        wall = time.monotonic() - self._began
        errors = self.child.errors() if status == "crash" else ""
        self.kill()
        outcome = self._outcome(PairResult(status, message, wall_s=wall, cpu_s=self._cpu_s, traceback=errors))
        self.job = None
        return outcome

    def _outcome(self, result: PairResult) -> Outcome:
        assert self.job is not None
        result = replace(result, peak_mb=max(result.peak_mb, self._peak_mb))
        if result.status == "memory":
            result = replace(result, message=f"needed more than {self.limits.memory_mb} MiB")
        return Outcome(self.job.case, self.job.name, result, self._level)

    def _usage(self) -> _Usage:
        members = [_usage_of(process) for process in _family(self.child.pid)]
        return _Usage(sum(member.cpu_s for member in members), sum(member.resident_mb for member in members))


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, as far as they still run."""
    found: list[psutil.Process] = []
    waiting = [pid]
    while waiting:
        with suppress(psutil.Error):
            member = psutil.Process(waiting.pop())
            found.append(member)
            waiting += _children(member)
    return found


def _children(process: psutil.Process) -> list[int]:
    """Return the children of all threads of a process, by the kernel's list where there is one: psutil reads every
    process."""
    try:
        lists = [file.read_text(encoding="ascii") for file in Path(f"/proc/{process.pid}/task").glob("*/children")]
    except OSError:
        lists = []
    if lists:
        return [int(child) for children in lists for child in children.split()]
    return [child.pid for child in process.children()]


def _usage_of(process: psutil.Process) -> _Usage:
    """Return the usage of one process; CPU time includes the children that it waited for."""
    cpu_s = resident = 0.0
    with suppress(psutil.Error):
        cpu_s = float(sum(process.cpu_times()[:4]))
        resident = process.memory_info().rss / MIB
    return _Usage(cpu_s, resident)
