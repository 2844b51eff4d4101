"""Runs (method, case) pairs in child processes, under limits.

A method that hangs, grows without bound, crashes or raises costs its own pair and nothing else. Workers are kept until
one misbehaves, so the start-up of an interpreter is not paid per pair.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

import psutil

from tasks.rca.method import Method
from tasks.rca.pair import PairResult, Status
from tasks.rca.view import CaseView
from tasks.rca.worker import MIB, READY, Job, NewView, Start

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_WORKER = "from tasks.rca.worker import main; main()"
_START_TIMEOUT_S = 120.0
_ERRORS_KEPT = 4000
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


class RunnerError(RuntimeError):
    """The workers themselves cannot run."""


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


def run_pairs(
    cases: Iterable[tuple[str, CaseView]],
    methods: Sequence[Method],
    *,
    limits: Limits,
    seed: int,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Run every method on every case; outcomes come as they finish, in no fixed order.

    ``cases`` gives (label, view) and is read only as fast as workers get free. ``workers``: default one per CPU that
    this process may use. Results do not depend on the number of workers.

    Raises:
        RunnerError: a worker cannot start.
    """
    size = workers or _usable_cpus()
    pool: list[_Worker] = []
    jobs = _jobs(cases, methods, seed)
    exhausted = False
    try:
        while True:
            while not exhausted and (free := _free_worker(pool, size, limits)) is not None:
                job = next(jobs, None)
                if job is None:
                    exhausted = True
                else:
                    free.assign(job)
            busy = [worker for worker in pool if worker.job is not None]
            if exhausted and not busy:
                return
            wait([worker.connection for worker in busy], timeout=_TICK_S)
            for worker in busy:
                outcome = worker.poll()
                if outcome is not None:
                    yield outcome
            pool = [worker for worker in pool if worker.alive]
    finally:
        for worker in pool:
            worker.kill()


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _PendingPair:
    case: str
    view: bytes
    method: Method
    seed: int


def _jobs(cases: Iterable[tuple[str, CaseView]], methods: Sequence[Method], seed: int) -> Iterator[_PendingPair]:
    for case, view in cases:
        data = pickle.dumps(view, protocol=pickle.HIGHEST_PROTOCOL)
        for method in methods:
            yield _PendingPair(case, data, method, seed)


def _free_worker(pool: list[_Worker], size: int, limits: Limits) -> _Worker | None:
    for worker in [worker for worker in pool if worker.job is None]:
        if worker.running():
            return worker
        worker.kill()
        pool.remove(worker)
    if len(pool) < size:
        pool.append(_Worker(limits))
        return pool[-1]
    return None


class _Worker:
    """One child process and the pair it is working on."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.job: _PendingPair | None = None
        self.alive = True
        self._ready = False
        self._view = b""
        self._began = time.monotonic()
        self._measured = self._began
        self._peak_mb = 0.0
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORKER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self.connection = Connection(ours.detach())
        self.connection.send(Start(os.getpid(), limits.memory_mb))

    def running(self) -> bool:
        return self.alive and self._process.poll() is None

    def assign(self, job: _PendingPair) -> None:
        """Take a pair. The clock starts when the worker has started."""
        self.job = job
        self._peak_mb = 0.0
        self._began = time.monotonic()
        if self._ready:
            self._send_job()

    def poll(self) -> Outcome | None:
        """The outcome of the pair, if there is one by now."""
        try:
            if self.connection.poll():
                message = self.connection.recv()
                if message == READY:
                    self._ready = True
                    self._began = time.monotonic()
                    self._send_job()
                    return None
                return self._finished(message)
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._crashed()
        if self._process.poll() is not None:
            return self._crashed()
        elapsed = time.monotonic() - self._began
        if not self._ready:
            if elapsed > _START_TIMEOUT_S:
                raise RunnerError(f"a worker did not start within {_START_TIMEOUT_S:g} s")
            return None
        if elapsed > self.limits.timeout_s:
            return self._stopped("timeout", f"took longer than {self.limits.timeout_s:g} s")
        if time.monotonic() - self._measured >= _TICK_S:
            self._measured = time.monotonic()
            self._peak_mb = max(self._peak_mb, self._resident_mb(with_children=True))
            if self._peak_mb > self.limits.memory_mb:
                return self._stopped("memory", "")
        return None

    def kill(self) -> None:
        """End the process and what it started. Safe to call twice."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
            self._stderr.close()

    def _send_job(self) -> None:
        assert self.job is not None
        try:
            if self.job.view is not self._view:
                self.connection.send(NewView(self.job.view))
                self._view = self.job.view
            self.connection.send(Job(self.job.method.name, self.job.method.module, self.job.seed))
        except OSError:
            return  # it died; poll reports it

    def _finished(self, result: PairResult) -> Outcome:
        outcome = self._outcome(result)
        self.job = None
        if (
            self._resident_mb(with_children=False) > self.limits.memory_mb / 2
        ):  # what it holds on to must not count against the next pair
            self.kill()
        return outcome

    def _crashed(self) -> Outcome:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None  # it closed the connection and lives on
        if not self._ready:
            lines = self._errors().splitlines()
            raise RunnerError(f"a worker cannot start: {lines[-1] if lines else f'exit code {code}'}")
        if code is None:
            reason = "closed its connection"
        elif code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        else:
            reason = f"ended its process with exit code {code}"
        return self._stopped("crash", reason)

    def _stopped(self, status: Status, message: str) -> Outcome:
        wall = time.monotonic() - self._began
        errors = self._errors() if status == "crash" else ""
        self.kill()
        outcome = self._outcome(PairResult(status, message, wall_s=wall, traceback=errors))
        self.job = None
        return outcome

    def _outcome(self, result: PairResult) -> Outcome:
        assert self.job is not None
        result = replace(result, peak_mb=max(result.peak_mb, self._peak_mb))
        if result.status == "memory":
            result = replace(result, message=f"needed more than {self.limits.memory_mb} MiB")
        if result.status != "ok":
            logger.warning("%s on %s: %s: %s", self.job.method.name, self.job.case, result.status, result.message)
            if result.traceback:
                logger.debug("%s", result.traceback)
        return Outcome(self.job.case, self.job.method.name, result)

    def _errors(self) -> str:
        """The end of what the process wrote to its standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _ERRORS_KEPT))
        return self._stderr.read().decode(errors="replace").strip()

    def _resident_mb(self, *, with_children: bool) -> float:
        try:
            process = psutil.Process(self._process.pid)
            family = [process, *(process.children(recursive=True) if with_children else ())]
            return sum(member.memory_info().rss for member in family) / MIB
        except psutil.Error:
            return 0.0
