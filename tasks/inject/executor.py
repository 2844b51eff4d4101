"""What a fault is made of on every backend: its parameters, its target, the act and the steps that undo it.

The guardian, the dead-man timer and the recovery know a fault only by these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from tasks.errors import RCArenaError
from tasks.validation import Frozen

if TYPE_CHECKING:
    from tasks.inject.probe import Probe


class FaultError(RCArenaError):
    """A fault could not be carried out or undone; the message says what and why."""


class FaultParameters(Frozen):
    """Base of the parameters of a kind; units are in the names."""


class FaultTarget(BaseModel, ABC):
    """One service of one stack, with all that is needed to act on it and to undo: no other file is read.

    It is part of the journal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str

    undo_s: ClassVar[float] = 5.0
    """How long an undo may take here before somebody else takes over."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The service."""

    @property
    @abstractmethod
    def stack_alive(self) -> bool:
        """Whether the stack exists; true when that cannot be told now."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether nothing is left of the service and the stack that could need restoring."""

    @abstractmethod
    def identities(self) -> frozenset[str]:
        """What should live through a fault: the service's own processes on this machine, containers on a cluster.

        Raises:
            FaultError, OSError: it cannot be told now.
        """


T = TypeVar("T", bound=FaultTarget)
P = TypeVar("P", bound=FaultParameters)


@dataclass(frozen=True)
class Undone:
    """What the platform told about an undo: when the effect ended (None: now), and notes for the record.

    ``unconfirmed``: what may be left of the fault although nothing of it can be found any more.
    """

    ended_at: datetime | None = None
    notes: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()


class UndoStepBase(BaseModel, Generic[T]):
    """One step that restores a service; written to the journal before the fault acts.

    It can be repeated, finds what it restores by looking, and needs only the target: a process that knows nothing but
    the journal can undo a fault of one that was killed. A subclass adds a literal ``step``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def undo(self, target: T) -> Undone | None:
        """Returns what there is to tell beyond that it is done now.

        Raises:
            FaultError, OSError: it could not be done.
        """
        raise NotImplementedError

    def left(self, target: T) -> list[str]:
        """What of the fault is still there.

        Raises:
            FaultError, OSError: it cannot be told.
        """
        raise NotImplementedError


class FaultExecutor(ABC, Generic[T, P]):
    """One injection of a kind on one backend.

    Life: ``undo_steps`` goes to the journal, then ``refusal`` may stop it, then ``apply``; the steps undo it. The
    guardian compares the probe's figures before, during and after with ``shows_effect`` and ``is_normal``.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Values of parameters that differ from the defaults of the kind on this backend."""

    settle_s: float = 8.0
    """How long after the undo the probe may take to be normal again."""

    alarm_interval_s: float = 0.5
    """How often ``alarm`` is asked."""

    spares_processes: bool = True
    """The target's ``identities`` should live through the fault; if they do not, the verdict says so."""

    applied_at: datetime | None = None
    """Set by ``apply`` when the platform has recorded the moment; None: just before ``apply`` was called."""

    def __init__(self, target: T, parameters: P, journal: Path) -> None:
        self.target = target
        self.parameters = parameters
        self.journal = journal

    @property
    def injection_id(self) -> str:
        return self.journal.stem

    @abstractmethod
    def undo_steps(self) -> tuple[UndoStepBase[Any], ...]:
        """What restores the target, whatever part of ``apply`` was done."""

    def refusal(self) -> str | None:
        """Why this fault must not act now; looked at just before ``apply``."""
        return None

    @abstractmethod
    def apply(self, run_for_s: float) -> str:
        """Act; what is started here ends by itself after ``run_for_s``. Returns the name of the executor.

        Raises:
            FaultError, OSError: it could not be done; the undo steps are run.
        """

    def alarm(self) -> str | None:
        """Why the fault must end before its time; asked every ``alarm_interval_s``."""
        return None

    @abstractmethod
    def probe(self) -> Probe:
        """Made before ``apply``."""

    @abstractmethod
    def shows_effect(self, before: float, during: float) -> bool: ...

    @property
    @abstractmethod
    def criterion(self) -> str:
        """``shows_effect`` in words, after "an effect is"."""

    def is_normal(self, before: float, during: float, after: float) -> bool:
        """By default: nearer to the figure before than to the figure during."""
        return abs(after - before) <= abs(after - during)


@dataclass(frozen=True)
class FaultSupport:
    """What a backend offers so that faults can be carried out on its stacks, which it publishes as its ``Runtime``.

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
