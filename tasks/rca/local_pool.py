"""Runs pairs in child processes of this machine, under limits.

A method that hangs, grows without bound, crashes or raises costs its own pair and nothing else. Workers are kept until
one misbehaves, so the start-up of an interpreter is not paid per pair.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import psutil

from tasks.rca.child import READY, START_TIMEOUT_S, Child, RunnerError
from tasks.rca.pair import PairResult, Status
from tasks.rca.pool import TICK_S, Limits, Outcome, PairJob, usable_cpus
from tasks.rca.worker import MIB, NewView

_WORKER = "tasks.rca.worker"


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
