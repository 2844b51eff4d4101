"""Runs pairs on a Ray cluster: one actor per CPU, each with one isolated worker process of its own.

The limits, the isolation and the results are those of :class:`tasks.rca.run.local_pool.LocalPool`; Ray only carries
views there and results back.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tasks.rca.method import METHODS
from tasks.rca.run.child import START_TIMEOUT_S, RunnerError
from tasks.rca.run.environment import environment
from tasks.rca.run.local_pool import PairWorker, WorkerPlace
from tasks.rca.run.pool import TICK_S, Limits, Outcome, PairJob
from tasks.system.process import usable_cpus
from tasks.system.scratch import scratch_directory

OWN_CLUSTER = "local"
_LOST_AT_MOST = 3
_SHORT_PATH = Path("/tmp")
"""Ray's sockets lie deep below it, and the path of a socket has at most 107 characters."""


class PairActor:
    """A Ray actor that runs one pair at a time in a child process on its node."""

    def __init__(self, limits: Limits, modules: Sequence[str]) -> None:
        self._place = WorkerPlace(limits, modules)
        self._modules = modules
        self._worker: PairWorker | None = None

    def environment(self) -> dict[str, str]:
        return environment(self._modules)

    def run(self, job: PairJob, view: bytes) -> Outcome:
        if self._worker is None or not self._worker.child.running():
            self._worker = PairWorker(self._place)
        self._worker.assign(replace(job, view=view))
        while True:
            wait([self._worker.child.connection], timeout=TICK_S)
            outcome = self._worker.poll()
            if outcome is not None:
                return outcome


@dataclass
class ActorSlot:
    """The driver's view of an actor. ``pending``: the future of the last call. ``ready``: it has answered once."""

    actor: Any
    pending: Any
    ready: bool = False
    job: PairJob | None = None


class RayPool:
    """A pool of actors on the Ray cluster at ``address`` (``auto``, ``host:port``, ``ray://host:port``).

    Without an address ``RAY_ADDRESS`` of the environment is used; without that, or with ``local``, a cluster on this
    machine that ends with the pool. ``workers``: how many pairs run at once, by default one per CPU of the cluster.

    Raises:
        RunnerError: Ray is not installed, there is no such cluster, or it has other software.
    """

    def __init__(self, limits: Limits, address: str | None = None, workers: int | None = None) -> None:
        self._ray = _import_ray()
        self._limits = limits
        self._connected = not self._ray.is_initialized()
        self._scratch = _connect(self._ray, address, workers) if self._connected else None
        self._slots: list[ActorSlot] = []
        self._again: list[PairJob] = []
        self._lost: dict[tuple[str, str], int] = {}
        self._lost_at_start = 0
        self._view: tuple[int, Any] | None = None
        self._seen_alive = time.monotonic()
        self.size = workers or int(self._ray.cluster_resources().get("CPU", 0))
        if self.size < 1:
            self.close()
            raise RunnerError("the Ray cluster has no CPU")
        self._actor_class = self._ray.remote(num_cpus=1, max_restarts=0)(PairActor)
        self._slots = [self._new_slot() for _ in range(self.size)]

    @property
    def busy(self) -> int:
        return sum(slot.job is not None for slot in self._slots) + len(self._again)

    @property
    def busy_here(self) -> int:
        return self.busy if self._scratch is not None else 0

    def has_room(self) -> bool:
        return not self._again and self._free_slot() is not None

    def start(self, job: PairJob) -> None:
        slot = self._free_slot()
        assert slot is not None
        if self._view is None or self._view[0] != job.view_number:
            self._view = job.view_number, self._ray.put(job.view)
        slot.job = job
        slot.pending = slot.actor.run.remote(replace(job, view=b""), self._view[1])

    def wait(self, timeout_s: float, also: Sequence[Connection]) -> list[Outcome]:
        while self._again and self._free_slot() is not None:
            self.start(self._again.pop())
        pending = [slot.pending for slot in self._slots if slot.pending is not None]
        if not pending:
            wait(list(also), timeout=timeout_s)
            return []
        self._ray.wait(pending, timeout=timeout_s / 4 if also else timeout_s)
        answered = set(self._ray.wait(pending, num_returns=len(pending), timeout=0)[0])
        outcomes = [
            outcome
            for slot in [slot for slot in self._slots if slot.pending in answered]
            if (outcome := self._answer(slot)) is not None
        ]
        if any(slot.ready for slot in self._slots):
            self._seen_alive = time.monotonic()
        elif time.monotonic() - self._seen_alive > START_TIMEOUT_S:
            raise RunnerError(f"no Ray actor started within {START_TIMEOUT_S:g} s: the cluster has no free CPU")
        return outcomes

    def close(self) -> None:
        for slot in self._slots:
            with suppress(Exception):  # it is gone, or the cluster is
                self._ray.kill(slot.actor)
        if self._connected:
            self._ray.shutdown()
        if self._scratch is not None:
            self._scratch.close()

    def _free_slot(self) -> ActorSlot | None:
        return next((slot for slot in self._slots if slot.ready and slot.job is None), None)

    def _new_slot(self) -> ActorSlot:
        actor = self._actor_class.remote(self._limits, METHODS.other_modules)
        return ActorSlot(actor, actor.environment.remote())

    def _answer(self, slot: ActorSlot) -> Outcome | None:
        try:
            answer = self._ray.get(slot.pending)
        except self._ray.exceptions.RayActorError as error:
            self._replace(slot, str(error))
            return None
        except self._ray.exceptions.RayTaskError as error:
            raise RunnerError(f"a Ray actor: {_one_line(error.cause)}") from error
        slot.pending = None
        if slot.ready:
            slot.job = None
            outcome: Outcome = answer
            return outcome
        _check_environment(answer)
        slot.ready = True
        self._lost_at_start = 0
        return None

    def _replace(self, slot: ActorSlot, reason: str) -> None:
        """Replace an actor that died with its node or was killed. Its pair runs again on another."""
        if slot.job is None:  # it was starting; a node that is lost takes all of its actors along
            self._lost_at_start += 1
            hopeless = self._lost_at_start >= _LOST_AT_MOST * self.size
        else:
            pair = slot.job.case, slot.job.name
            self._lost[pair] = self._lost.get(pair, 0) + 1
            hopeless = self._lost[pair] >= _LOST_AT_MOST
            self._again.append(slot.job)
        if hopeless:
            raise RunnerError(f"lost {_LOST_AT_MOST} Ray actors in a row: {_one_line(reason)}")
        self._slots[self._slots.index(slot)] = self._new_slot()


def _import_ray() -> Any:
    _require("ray", "ray")
    import ray

    return ray


def _require(module: str, package: str) -> None:
    """Check that a package is installed that Ray needs but does not require: without OpenTelemetry's API Ray's own
    processes end at once, and Ray waits for them for half a minute."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise RunnerError(f"the engine ray needs the package {package}: pip install 'rcarena[ray]'") from error


def _connect(ray: Any, address: str | None, workers: int | None) -> ExitStack | None:
    """Connect to a cluster, or start one; return the files of one that was started."""
    address = address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    options: dict[str, Any]
    scratch = None
    if address == OWN_CLUSTER:
        _require("opentelemetry.metrics", "opentelemetry-api")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home directory
        scratch = ExitStack()
        directory = scratch.enter_context(scratch_directory("ray", _SHORT_PATH))
        options = {"num_cpus": workers or usable_cpus(), "include_dashboard": False, "_temp_dir": str(directory)}
    else:  # the cluster runs our code, not what it may have installed
        options = {"runtime_env": {"py_modules": _packages(), "excludes": ["__pycache__"]}}
    with _signal_handlers_kept():
        try:
            ray.init(address=address, **quiet, **options)
        except Exception as error:  # Ray raises all sorts, the bare one among them
            if scratch is not None:
                scratch.close()
            raise RunnerError(f"no Ray cluster ({address}): {_one_line(error)}") from error
    return scratch


def _packages() -> list[str]:
    """Return the folders of our package and of those that the methods of others are in."""
    tops = {module.partition(".")[0] for module in (__name__, *METHODS.other_modules)}
    return sorted(str(folder) for top in tops for folder in getattr(sys.modules[top], "__path__", ()))


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces: the caller cleans up with them."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def _check_environment(theirs: dict[str, str]) -> None:
    for name, ours in environment(METHODS.other_modules).items():
        if theirs.get(name) != ours:
            raise RunnerError(
                f"the Ray cluster would not give the same results: its {name} is {theirs.get(name) or 'missing'}, "
                f"here it is {ours or 'missing'}"
            )


def _one_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
