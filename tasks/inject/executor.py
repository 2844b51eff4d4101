"""The interface of a fault on every backend: parameters, target, undo steps, executor.

The guardian, the dead-man timer and the recovery use nothing else of a backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tasks.inject.probe import Probe
from tasks.validation import Frozen


class FaultParameters(Frozen):
    """Base of the parameters of a fault kind; units are in the names."""


HealthyWithin = Annotated[float, Field(gt=0, le=3600, description="time for it to be back after the window")]


class RestartParameters(FaultParameters):
    """Base of the parameters of kinds that end processes: ``healthy_within_s`` is their executors' ``settle_s``."""

    healthy_within_s: HealthyWithin = 900


class FaultTarget(BaseModel, ABC):
    """One service of one stack. It is part of the journal, and holds all that acting and undoing need to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str

    undo_s: ClassVar[float] = 5.0
    """How long an undo may take before the next process takes over."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the service."""

    @property
    @abstractmethod
    def stack_alive(self) -> bool:
        """Whether the stack exists; true when that is not known."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether nothing of the service and the stack is left to restore."""

    @abstractmethod
    def identities(self) -> frozenset[str]:
        """Return ids of what should survive a fault: processes of the service on this machine, containers on a cluster.

        Raises:
            FaultError, OSError: they cannot be looked up now.
        """


T = TypeVar("T", bound=FaultTarget)
P = TypeVar("P", bound=FaultParameters)


@dataclass(frozen=True)
class Undone:
    """What the platform reports of an undo: when the effect ended (None: now), and notes for the record.

    ``unconfirmed``: what may be left of the fault although nothing of it can be found.
    """

    ended_at: datetime | None = None
    notes: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()


class UndoStepBase(BaseModel, Generic[T]):
    """Base of the steps that restore a service; they are written to the journal before the fault acts.

    A step can be repeated, looks for what it has to restore, and needs only the target, so that any process can undo by
    the journal. A subclass adds a literal ``step``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def undo(self, target: T) -> Undone | None:
        """Restore. Returns what the platform reports, if it reports anything.

        Raises:
            FaultError, OSError: it could not be done.
        """
        raise NotImplementedError

    def left(self, target: T) -> list[str]:
        """Name what is left of the fault.

        Raises:
            FaultError, OSError: it cannot be looked up.
        """
        raise NotImplementedError


class FaultExecutor(ABC, Generic[T, P]):
    """Base of the executors: carries out one injection of a kind on one backend.

    ``undo_steps`` go to the journal; then ``refusal`` may stop it; then ``apply`` acts, and the steps undo it. The
    guardian judges the probe's figures before, during and after by ``shows_effect`` and ``is_normal``.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of parameters on this backend, where they differ from those of the kind."""

    settle_s: float = 8.0
    """How long after the undo the probe may take to be normal again."""

    alarm_interval_s: float = 0.5
    """How often ``alarm`` is asked."""

    spares_processes: bool = True
    """Whether the target's ``identities`` should survive the fault; if they do not, the verdict says so."""

    applied_at: datetime | None = None
    """Set by ``apply`` when the platform has recorded the moment; None: just before ``apply`` was called."""

    def __init__(self, target: T, parameters: P, journal: Path) -> None:
        self.target = target
        self.parameters = parameters
        self.journal = journal
        if isinstance(parameters, RestartParameters):
            self.settle_s = parameters.healthy_within_s

    @property
    def injection_id(self) -> str:
        return self.journal.stem

    @abstractmethod
    def undo_steps(self) -> tuple[UndoStepBase[Any], ...]:
        """Return what restores the target, whatever part of ``apply`` was done."""

    def refusal(self) -> str | None:
        """Say why the fault must not act now, if so; called just before ``apply``."""
        return None

    @abstractmethod
    def apply(self, run_for_s: float) -> str:
        """Act. What it starts must end by itself after ``run_for_s``. Returns the name of what acts, for the record.

        Raises:
            FaultError, OSError: it could not be done; the undo steps are run.
        """

    def alarm(self) -> str | None:
        """Say why the fault must end early, if so; called every ``alarm_interval_s``."""
        return None

    @abstractmethod
    def probe(self) -> Probe:
        """Return the probe; called before ``apply``."""

    @abstractmethod
    def shows_effect(self, before: float, during: float) -> bool: ...

    @property
    @abstractmethod
    def criterion(self) -> str:
        """``shows_effect`` in words that follow "an effect is"."""

    def is_normal(self, before: float, during: float, after: float) -> bool:
        """Whether the effect is over. By default: the figure is nearer to before than to during."""
        return abs(after - before) <= abs(after - during)


@dataclass(frozen=True)
class FaultSupport:
    """What a backend offers for carrying out faults on its stacks.

    Args:
        target_model: how a journal holds a target.
        steps: how a journal holds undo steps: a tuple of the backend's, told apart by ``step``.
        target: the target for a service of a stack; raises KeyError for an unknown service.
        residue: every trace of a fault in a stack; raises nothing, what cannot be looked at is named as a trace.
        sweep: undoes every trace, journal or not; returns what was done and what could not be.
        executors: by kind, what carries out kinds whose own file does not name this backend.
    """

    target_model: type[FaultTarget]
    steps: TypeAdapter[Any]
    target: Callable[[Any, str], FaultTarget]
    residue: Callable[[Any], list[str]]
    sweep: Callable[[Any], tuple[list[str], list[str]]]
    executors: Mapping[str, type[FaultExecutor[Any, Any]]] = field(default_factory=dict)
