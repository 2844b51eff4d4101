"""Builds the views of cases and runs their (method, case) pairs in a pool.

Separate processes build the views, while pairs of earlier cases run, so that no process that runs a method ever saw the
answer.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasks.metrics import Profile
from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.run.builder import Build, Built, ViewFacts
from tasks.rca.run.child import START_TIMEOUT_S, Child, Ready, RunnerError
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pool import TICK_S, Limits, Outcome, PairJob, PairPool
from tasks.rca.run.worker import Job
from tasks.rca.view import CaseView
from tasks.system.process import usable_cpus

logger = logging.getLogger(__name__)

_BUILDER = "tasks.rca.run.builder"
_DEAREST_FIRST = ("expensive", "moderate", "cheap")


@dataclass(frozen=True)
class MethodCall:
    """A method and its parameters; those not given have their defaults. ``label``: the name of its outcomes, if not the
    method's."""

    method: Method
    parameters: Mapping[str, Any]
    label: str = ""


@dataclass(frozen=True)
class CaseWork:
    """The methods to run on the case in ``path``, labelled ``case``, under ``profile`` (default: that of the
    parameters).

    The same case may come again under another profile, with other methods.
    """

    case: str
    path: Path
    calls: Sequence[MethodCall]
    profile: Profile | None = None


def run_cases(
    work: Iterable[CaseWork],
    pool: PairPool,
    *,
    params: ScoreParams,
    on_view: Callable[[str, ViewFacts], None],
    first_number: int = 0,
) -> Iterator[Outcome]:
    """Build the view of each case and run its methods in ``pool``; outcomes come as they finish, in no fixed order.

    ``on_view`` is called with each case and the facts of its view before any outcome of the case. A case without a view
    has no outcomes. ``first_number``: of the views; a pool that is used again must never get a number twice, since its
    workers know a view by it.

    Raises:
        RunnerError: a process cannot start, or a case cannot be read.
    """
    with closing(_Views(work, params, on_view, first_number)) as views:
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
    """Return the jobs of a view, the most expensive first, so that none of those is left for the end."""
    ordered = sorted(calls, key=lambda call: _DEAREST_FIRST.index(call.method.cost))
    return [
        PairJob(case, number, view, Job(call.method.name, call.method.module, dict(call.parameters), seed), call.label)
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


class _Views:
    """The pairs of the cases to come, and the processes that build their views."""

    def __init__(
        self,
        work: Iterable[CaseWork],
        params: ScoreParams,
        on_view: Callable[[str, ViewFacts], None],
        first_number: int,
    ) -> None:
        self._work = enumerate(work, first_number)
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
        self.child = Child(_BUILDER, (Built, ViewFacts))
        self.work: CaseWork | None = None
        self.number = 0
        self._params: ScoreParams | None = None
        self._ready = False
        self._began = time.monotonic()

    def start(self, number: int, work: CaseWork, params: ScoreParams) -> None:
        self.work, self.number = work, number
        self._params = params if work.profile is None else params.model_copy(update={"profile": work.profile})
        if self._ready:
            self._ask()

    def poll(self) -> Built | None:
        """Return the view that was asked for, if it is there by now."""
        assert self.work is not None
        try:
            if self.child.connection.poll():
                message = self.child.receive()
                if isinstance(message, Ready):
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
