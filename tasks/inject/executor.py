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

from tasks.inject.probe import Outcome, Probe
from tasks.stack import Role, StackParams
from tasks.validation import Frozen


class FaultParameters(Frozen):
    """Base of the parameters of a fault kind; units are in the names."""


HealthyWithin = Annotated[float, Field(gt=0, le=3600, description="time for it to be back after the window")]


class RestartParameters(FaultParameters):
    """Base of the parameters of kinds that end processes: ``healthy_within_s`` is their executors' ``settle_s``."""

    healthy_within_s: HealthyWithin = 900


class FaultTarget(BaseModel, ABC):
    """One service of one stack, with everything that executors and undo steps need. Part of the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str

    undo_s: ClassVar[float] = 5.0
    """Maximum time (s) of an undo before the next process takes over."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the service."""

    @property
    @abstractmethod
    def stack_alive(self) -> bool:
        """True while the stack exists, or when that is unknown."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """True when neither the service nor the stack needs restoring any more."""

    @abstractmethod
    def identities(self) -> frozenset[str]:
        """Return ids of things that should survive a fault: processes on this machine, containers on a cluster.

        Raises:
            FaultError, OSError: they cannot be looked up now.
        """


T = TypeVar("T", bound=FaultTarget)
P = TypeVar("P", bound=FaultParameters)


@dataclass(frozen=True)
class UndoReport:
    """Report of the platform on an undo: when the effect ended (None: now), and notes for the record.

    ``unconfirmed``: effects that may be left although no trace is found.
    """

    ended_at: datetime | None = None
    notes: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()


class UndoStepBase(BaseModel, Generic[T]):
    """Base of the steps that restore a service; they are written to the journal before the fault acts.

    A step can be repeated, finds what it has to restore, and needs only the target, so that any process can undo from
    the journal. A subclass adds a literal ``step``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def undo(self, target: T) -> UndoReport | None:
        """Restore the service; return the platform's report, if any.

        Raises:
            FaultError, OSError: it could not be done.
        """
        raise NotImplementedError

    def left(self, target: T) -> list[str]:
        """Return texts of what is left of the fault.

        Raises:
            FaultError, OSError: it cannot be determined.
        """
        raise NotImplementedError


class FaultExecutor(ABC, Generic[T, P]):
    """Base of the executors: carries out one injection of a kind on one backend.

    ``undo_steps`` are journaled; then ``refusal`` may stop it; then ``apply`` acts, and the steps undo it. The guardian
    judges the probe's values before, during and after by ``shows_effect`` and ``is_normal``.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Parameter defaults of this backend that differ from those of the kind."""

    roles: ClassVar[frozenset[Role] | None] = None
    """Roles that this backend can act on, where they are fewer than the kind's."""

    group: ClassVar[str] = ""
    """The kind that telemetry can tell, where it is another than the kind's on this backend."""

    settle_s: float = 8.0
    """Maximum time (s) from the undo until the probe is normal again."""

    alarm_interval_s: float = 0.5
    """Interval (s) between calls of ``alarm``."""

    spares_processes: bool = True
    """True if the target's ``identities`` should survive the fault; the verdict reports lost ones."""

    applied_at: datetime | None = None
    """Time at which the platform applied the fault, set by ``apply``; None: just before the call of ``apply``."""

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
        """Return the steps that restore the target after any part of ``apply``."""

    def refusal(self) -> str | None:
        """Return why the fault must not act now, else None; called just before ``apply``."""
        return None

    @abstractmethod
    def apply(self, run_for_s: float) -> str:
        """Act, such that processes started end by themselves after ``run_for_s``; return the mechanism's name.

        Raises:
            FaultError, OSError: it could not be done; the undo steps are run.
        """

    def alarm(self) -> str | None:
        """Return why the fault must end early, else None; called every ``alarm_interval_s``."""
        return None

    @abstractmethod
    def probe(self) -> Probe:
        """Return the probe; called before ``apply``."""

    @abstractmethod
    def shows_effect(self, before: float, during: float) -> bool: ...

    @property
    @abstractmethod
    def criterion(self) -> str:
        """Return the criterion of ``shows_effect`` as text that follows "an effect is"."""

    def outcome(self) -> Outcome | None:
        """Return a second probe that must show an effect, too; None: ``probe`` alone decides."""
        return None

    def is_normal(self, before: float, during: float, after: float) -> bool:
        """Return whether the effect is over; by default, when ``after`` is nearer to ``before`` than to ``during``."""
        return abs(after - before) <= abs(after - during)


@dataclass(frozen=True)
class FaultSupport:
    """A backend's support for faults on its stacks.

    Args:
        target_model: model of a target in the journal.
        steps: model of the undo steps in the journal: a tuple, discriminated by ``step``.
        target: returns the target for a service of a stack; raises KeyError for an unknown service.
        residue: returns every trace of a fault in a stack; raises nothing, failed checks are traces, too.
        sweep: undoes every trace, journaled or not; returns what was done and what failed.
        executors: kind -> executor, for kinds whose own file does not name this backend.
        unable: returns why a stack of these parameters cannot have a fault of a kind, None when it can.
    """

    target_model: type[FaultTarget]
    steps: TypeAdapter[Any]
    target: Callable[[Any, str], FaultTarget]
    residue: Callable[[Any], list[str]]
    sweep: Callable[[Any], tuple[list[str], list[str]]]
    executors: Mapping[str, type[FaultExecutor[Any, Any]]] = field(default_factory=dict)
    unable: Callable[[StackParams, str], str | None] = lambda deploy, kind: None
