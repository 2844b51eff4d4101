"""Makes cases on a backend that computes them, several at a time, each in a process that ends with this one.

A case is published whole or not at all, so that whatever is killed, the next run makes what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tasks.backends import backend_of
from tasks.campaign.errors import CampaignError
from tasks.campaign.plan import CasePlan
from tasks.case import CaseWriter, is_finished
from tasks.console import Console
from tasks.errors import RCArenaError
from tasks.params import Params
from tasks.system.file_lock import FileLock
from tasks.system.process import usable_cpus
from tasks.workspace import Workspace

PAYS_OFF_S = 10.0
"""Work (s) that is worth the start of one more process."""
TRIES = 2
"""Of a case whose process was killed."""
ELSEWHERE_TIMEOUT_S = 600.0
ENDING_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Made:
    """What became of a case: ``problem`` says in one line why it is not there."""

    plan: CasePlan
    problem: str = ""


Making = Generator[Made, None, None]


def make_cases(
    params: Params, workspace: Workspace, plans: Sequence[CasePlan], console: Console, workers: int | None = None
) -> Making:
    """Make the cases of ``plans`` in up to ``workers`` processes (default: one per CPU); yield each as it is done.

    Their bytes do not depend on the processes. An exception in the caller's loop (Ctrl-C) ends all of them and removes
    what they had begun.
    """
    size = min(workers or _worth(params, workspace, len(plans)), len(plans))
    made = _made_here(params, workspace, plans) if size < 2 else _made_side_by_side(params, workspace, plans, size)
    with closing(made), console.progress("cases", len(plans)) as advance:
        for number, each in enumerate(made, start=1):
            console.say(f"case {number}/{len(plans)}: {each.plan.short_label}")
            if each.problem:
                console.say(f"case {each.plan.short_label}: {each.problem}")
            yield each
            advance(1)


def _worth(params: Params, workspace: Workspace, cases: int) -> int:
    """Return how many processes pay off: at most one per CPU, and none for a second of work."""
    case_s = backend_of(params, workspace).case_s(params.deploy, params.campaign.windows.total_s)
    return min(usable_cpus(), math.ceil(cases * case_s / PAYS_OFF_S))


def make_one(params: Params, workspace: Workspace, plan: CasePlan) -> Made:
    """Make a case unless it is finished. Another process that makes it is waited for."""
    busy = CampaignError(f"another process has been making it for {ELSEWHERE_TIMEOUT_S:g} s")
    file = workspace.claims / f"{plan.case_id}.lock"
    try:
        with FileLock(file, busy, timeout_s=ELSEWHERE_TIMEOUT_S):
            if not is_finished(workspace.cases / plan.case_id):
                _make(params, workspace, plan)
            file.unlink(missing_ok=True)  # who waits for it finds the case finished
    except RCArenaError as error:
        return Made(plan, str(error))
    return Made(plan)


def _make(params: Params, workspace: Workspace, plan: CasePlan) -> None:
    from tasks.campaign.attempt import order_of  # pandas

    backend_of(params, workspace).make_case(order_of(params, plan), workspace.cases)


def _made_here(params: Params, workspace: Workspace, plans: Sequence[CasePlan]) -> Making:
    for plan in plans:
        yield make_one(params, workspace, plan)


def _made_side_by_side(params: Params, workspace: Workspace, plans: Sequence[CasePlan], size: int) -> Making:
    waiting, killed = deque(plans), dict.fromkeys((plan.case_id for plan in plans), 0)
    workers = [_Worker(params, workspace) for _ in range(size)]
    try:
        while waiting or any(worker.plan for worker in workers):
            for i, worker in enumerate(workers):
                if worker.plan is None and waiting:
                    if not worker.process.is_alive():
                        workers[i] = worker = _Worker(params, workspace)
                    worker.start(waiting.popleft())
            busy = [worker for worker in workers if worker.plan is not None]
            answered = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in answered]:
                plan, made = worker.plan, worker.answer()
                assert plan is not None
                if made is None:
                    worker.stop()
                    killed[plan.case_id] += 1
                    if killed[plan.case_id] < TRIES:
                        waiting.appendleft(plan)
                        continue
                    made = Made(plan, f"its process {worker.ending}, {TRIES} times")
                yield made
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that makes one case at a time."""

    def __init__(self, params: Params, workspace: Workspace) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of other threads
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, os.getpid(), params, workspace), daemon=True
        )
        self.process.start()
        theirs.close()
        self.plan: CasePlan | None = None
        self._cases = workspace.cases

    def start(self, plan: CasePlan) -> None:
        self.plan = plan
        with contextlib.suppress(OSError):  # it was killed; ``answer`` says so
            self.connection.send(plan)

    def answer(self) -> Made | None:
        """Return what became of the case; None when the process has ended."""
        try:
            made: Made = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(ENDING_TIMEOUT_S)
            return None
        self.plan = None
        return made

    def stop(self) -> None:
        """End the process, and remove what it has begun."""
        plan, self.plan = self.plan, None
        self.process.kill()
        self.process.join()
        self.connection.close()
        if plan is not None:
            shutil.rmtree(CaseWriter(self._cases, plan.case_id).staging, ignore_errors=True)

    @property
    def ending(self) -> str:
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def _work(connection: Connection, parent_pid: int, params: Params, workspace: Workspace) -> None:
    """Make what is asked for until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        return
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(make_one(params, workspace, connection.recv()))
