"""Runs (method, case) pairs in child processes, under limits.

A method that hangs, grows without bound, crashes or raises costs its own pair and nothing else. Workers are kept until
one misbehaves, so the start-up of an interpreter is not paid per pair. Views are built in processes of their own, so
that no process that runs a method ever saw the answer, and while pairs of earlier cases run.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import psutil

from tasks.params import ScoreParams
from tasks.rca.builder import Build, Built, ViewFacts
from tasks.rca.child import READY, START_TIMEOUT_S, Child, RunnerError
from tasks.rca.method import Method
from tasks.rca.pair import PairResult, Status
from tasks.rca.view import CaseView
from tasks.rca.worker import MIB, Job, NewView

logger = logging.getLogger(__name__)

TICK_S = 0.1
_WORKER = "tasks.rca.worker"
_BUILDER = "tasks.rca.builder"
_DEAREST_FIRST = ("expensive", "moderate", "cheap")


@dataclass(frozen=True)
class Limits:
    """Per pair: wall time, and resident memory of the worker with its children."""

    timeout_s: float
    memory_mb: int


@dataclass(frozen=True)
class Outcome:
    """The result of one pair. ``case`` is the label that came with the view; methods never see it."""

    case: str
    method: str
    result: PairResult


@dataclass(frozen=True)
class MethodCall:
    """A method with the parameters it is to run with; those not given have their defaults."""

    method: Method
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class CaseWork:
    """The methods to run on the case in ``path``, whose label is ``case``."""

    case: str
    path: Path
    calls: Sequence[MethodCall]


@dataclass(frozen=True)
class PairJob:
    """One pair to run. ``view``: pickled; ``view_number``: the same for the pairs that share it."""

    case: str
    view_number: int
    view: bytes
    job: Job


class PairPool(Protocol):
    """Runs pairs somewhere."""

    size: int
    """How many pairs it runs at once."""

    @property
    def busy(self) -> int:
        """Pairs that are running."""

    @property
    def busy_here(self) -> int:
        """CPUs of this machine that they take."""

    def has_room(self) -> bool: ...

    def start(self, job: PairJob) -> None: ...

    def wait(self, timeout_s: float, also: Sequence[Connection]) -> list[Outcome]:
        """Pairs that ended. Returns at the latest after ``timeout_s``, or when one of ``also`` has something."""

    def close(self) -> None: ...


def run_cases(
    work: Iterable[CaseWork],
    pool: PairPool,
    *,
    params: ScoreParams,
    on_view: Callable[[str, ViewFacts], None],
) -> Iterator[Outcome]:
    """Build the view of each case and run its methods in ``pool``; outcomes come as they finish, in no fixed order.

    ``on_view`` is called with each case and the facts of its view before any outcome of the case. A case without a view
    has no outcomes.

    Raises:
        RunnerError: a process cannot start, or a case cannot be read.
    """
    with closing(_Views(work, params, on_view)) as views:
        while True:
            while pool.has_room() and (job := views.next_job()) is not None:
                pool.start(job)
            views.build_ahead(usable_cpus() - pool.busy_here, pool.size)
            if views.exhausted and not pool.busy:
                return
            yield from _logged(pool.wait(TICK_S, views.connections))
            views.collect()


def run_pairs(
    cases: Iterable[tuple[str, CaseView]],
    methods: Sequence[Method],
    *,
    limits: Limits,
    seed: int,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Run every method, with its default parameters, on views that are there already.

    ``cases`` gives (label, view) and is read only as fast as workers get free. Results do not depend on ``workers``.

    Raises:
        RunnerError: a worker cannot start.
    """
    with closing(LocalPool(limits, workers)) as pool:
        calls = [MethodCall(method, {}) for method in methods]
        jobs = (
            job
            for number, (case, view) in enumerate(cases)
            for job in _jobs(case, number, pickle.dumps(view, protocol=pickle.HIGHEST_PROTOCOL), calls, seed)
        )
        job = next(jobs, None)
        while job is not None or pool.busy:
            while job is not None and pool.has_room():
                pool.start(job)
                job = next(jobs, None)
            yield from _logged(pool.wait(TICK_S, ()))


def _jobs(case: str, number: int, view: bytes, calls: Sequence[MethodCall], seed: int) -> list[PairJob]:
    """Those that take longest first, so that none is left over at the end."""
    ordered = sorted(calls, key=lambda call: _DEAREST_FIRST.index(call.method.cost))
    return [
        PairJob(case, number, view, Job(call.method.name, call.method.module, dict(call.parameters), seed))
        for call in ordered
    ]


def _logged(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        result = outcome.result
        if result.status != "ok":
            logger.info("%s on %s: %s: %s", outcome.method, outcome.case, result.status, result.message)
            if result.traceback:
                logger.debug("%s", result.traceback)
    return outcomes


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Views:
    """The pairs of the cases to come, and the processes that build their views."""

    def __init__(
        self, work: Iterable[CaseWork], params: ScoreParams, on_view: Callable[[str, ViewFacts], None]
    ) -> None:
        self._work = enumerate(work)
        self._next = next(self._work, None)
        self._params = params
        self._on_view = on_view
        self._ready: deque[PairJob] = deque()
        self._builders: list[_Builder] = []

    @property
    def exhausted(self) -> bool:
        return self._next is None and not self._ready and not self._building

    @property
    def connections(self) -> list[Connection]:
        return [builder.child.connection for builder in self._building]

    @property
    def _building(self) -> list[_Builder]:
        return [builder for builder in self._builders if builder.work is not None]

    def next_job(self) -> PairJob | None:
        return self._ready.popleft() if self._ready else None

    def build_ahead(self, free_cpus: int, wanted: int) -> None:
        """Start to build views on free CPUs while fewer than ``wanted`` pairs are ready."""
        while self._next is not None and len(self._ready) < wanted and len(self._building) < free_cpus:
            idle = next((builder for builder in self._builders if builder.work is None), None)
            if idle is None:
                idle = _Builder()
                self._builders.append(idle)
            idle.start(*self._next, self._params)
            self._next = next(self._work, None)

    def collect(self) -> None:
        """Take the views that are finished."""
        for builder in self._building:
            work, number = builder.work, builder.number
            built = builder.poll()
            if work is None or built is None or built.facts is None:
                continue
            self._on_view(work.case, built.facts)
            if built.data:
                self._ready.extend(_jobs(work.case, number, built.data, work.calls, self._params.seed))

    def close(self) -> None:
        for builder in self._builders:
            builder.child.kill()


class _Builder:
    """One process that builds views."""

    def __init__(self) -> None:
        self.child = Child(_BUILDER)
        self.work: CaseWork | None = None
        self.number = 0
        self._params: ScoreParams | None = None
        self._ready = False
        self._began = time.monotonic()

    def start(self, number: int, work: CaseWork, params: ScoreParams) -> None:
        self.work, self.number, self._params = work, number, params
        if self._ready:
            self._ask()

    def poll(self) -> Built | None:
        """What came of the request, if anything did by now."""
        assert self.work is not None
        try:
            if self.child.connection.poll():
                message = self.child.connection.recv()
                if message == READY:
                    self._ready = True
                    self._ask()
                    return None
                return self._finished(message)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._broken() from None
        if not self.child.running():
            raise self._broken()
        if not self._ready and time.monotonic() - self._began > START_TIMEOUT_S:
            raise RunnerError(f"a process that builds views did not start within {START_TIMEOUT_S:g} s")
        return None

    def _ask(self) -> None:
        assert self.work is not None
        assert self._params is not None
        self.child.connection.send(Build(self.work.path, self._params))

    def _finished(self, built: Built) -> Built:
        assert self.work is not None
        if built.error:
            raise RunnerError(f"{self.work.case}: its view cannot be built: {built.error}")
        self.work = None
        return built

    def _broken(self) -> RunnerError:
        assert self.work is not None
        reason = self.child.ending()
        lines = self.child.errors().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return RunnerError(f"{self.work.case}: its view cannot be built: the process {reason}{said}")


class LocalPool:
    """Worker processes on this machine, by default one per CPU that this process may use."""

    def __init__(self, limits: Limits, workers: int | None = None) -> None:
        self.size = workers or usable_cpus()
        self._limits = limits
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
            worker.child.kill()

    def _free_worker(self, job: PairJob) -> PairWorker:
        """One that has the view already, if possible."""
        free = [worker for worker in self._workers if worker.job is None]
        for worker in sorted(free, key=lambda worker: worker.view_number != job.view_number):
            if worker.child.running():
                return worker
            worker.child.kill()
            self._workers.remove(worker)
        self._workers.append(PairWorker(self._limits))
        return self._workers[-1]


class PairWorker:
    """One child process and the pair it is working on."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.job: PairJob | None = None
        self.child = Child(_WORKER, limits.memory_mb)
        self.view_number: int | None = None
        self._ready = False
        self._began = time.monotonic()
        self._measured = self._began
        self._peak_mb = 0.0

    def assign(self, job: PairJob) -> None:
        """Take a pair. The clock starts when the worker has started."""
        self.job = job
        self._peak_mb = 0.0
        self._began = time.monotonic()
        if self._ready:
            self._send_job()

    def poll(self) -> Outcome | None:
        """The outcome of the pair, if there is one by now."""
        try:
            if self.child.connection.poll():
                message = self.child.connection.recv()
                if message == READY:
                    self._ready = True
                    self._began = time.monotonic()
                    self._send_job()
                    return None
                return self._finished(message)
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._crashed()
        if not self.child.running():
            return self._crashed()
        elapsed = time.monotonic() - self._began
        if not self._ready:
            if elapsed > START_TIMEOUT_S:
                raise RunnerError(f"a worker did not start within {START_TIMEOUT_S:g} s")
            return None
        if elapsed > self.limits.timeout_s:
            return self._stopped("timeout", f"took longer than {self.limits.timeout_s:g} s")
        if time.monotonic() - self._measured >= TICK_S:
            self._measured = time.monotonic()
            self._peak_mb = max(self._peak_mb, self._resident_mb(with_children=True))
            if self._peak_mb > self.limits.memory_mb:
                return self._stopped("memory", "")
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
        outcome = self._outcome(result)
        self.job = None
        if (
            self._resident_mb(with_children=False) > self.limits.memory_mb / 2
        ):  # what it holds on to must not count against the next pair
            self.child.kill()
        return outcome

    def _crashed(self) -> Outcome:
        reason = self.child.ending()
        if not self._ready:
            lines = self.child.errors().splitlines()
            raise RunnerError(f"a worker cannot start: {lines[-1] if lines else reason}")
        return self._stopped("crash", reason)

    def _stopped(self, status: Status, message: str) -> Outcome:
        wall = time.monotonic() - self._began
        errors = self.child.errors() if status == "crash" else ""
        self.child.kill()
        outcome = self._outcome(PairResult(status, message, wall_s=wall, traceback=errors))
        self.job = None
        return outcome

    def _outcome(self, result: PairResult) -> Outcome:
        assert self.job is not None
        result = replace(result, peak_mb=max(result.peak_mb, self._peak_mb))
        if result.status == "memory":
            result = replace(result, message=f"needed more than {self.limits.memory_mb} MiB")
        return Outcome(self.job.case, self.job.job.method, result)

    def _resident_mb(self, *, with_children: bool) -> float:
        try:
            process = psutil.Process(self.child.pid)
            family = [process, *(process.children(recursive=True) if with_children else ())]
            return sum(member.memory_info().rss for member in family) / MIB
        except psutil.Error:
            return 0.0
