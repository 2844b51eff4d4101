"""The interface of a pool that runs (method, case) pairs, its input and its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from tasks.rca.run.pair import PairResult
from tasks.rca.run.sandbox import Level
from tasks.rca.run.worker import Job

TICK_S = 0.1
STALLED_FACTOR = 10
"""A pair that uses less than 1 % of a CPU for this many times its limit waits for something that does not come. However
busy the machine is, what has work to do gets more."""


@dataclass(frozen=True)
class Limits:
    """Limits of one pair: CPU seconds and resident memory of the worker and its descendants.

    ``hidden``: files and folders that no method may see, wherever they lie. (The list of what it may see does not know
    the workspace, :mod:`tasks.rca.run.sandbox`.)
    """

    timeout_s: float
    memory_mb: int
    hidden: tuple[str, ...] = ()

    @property
    def stalled_s(self) -> float:
        """Wall-clock seconds without progress after which a pair counts as hung, see :data:`STALLED_FACTOR`."""
        return STALLED_FACTOR * self.timeout_s


@dataclass(frozen=True)
class Outcome:
    """The result of one pair. ``case``: the label of its view, which methods never see. ``level``: how the process that
    ran the method was confined."""

    case: str
    method: str
    result: PairResult
    level: Level | None = None


@dataclass(frozen=True)
class PairJob:
    """One pair to run. ``view``: pickled. ``view_number``: the same for all pairs that share the view. ``label``: the
    name of its outcome, if that is not the method's."""

    case: str
    view_number: int
    view: bytes
    job: Job
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.job.method


class PairPool(Protocol):
    """Runs pairs somewhere."""

    size: int
    """How many pairs it runs at once."""

    @property
    def busy(self) -> int:
        """The number of pairs that are running."""

    @property
    def busy_here(self) -> int:
        """The number of CPUs of this machine that they take."""

    def has_room(self) -> bool: ...

    def start(self, job: PairJob) -> None: ...

    def wait(self, timeout_s: float, also: Sequence[Connection]) -> list[Outcome]:
        """Return the pairs that ended. Waits at most ``timeout_s``, or until one of ``also`` is readable."""

    def close(self) -> None: ...
