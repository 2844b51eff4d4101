"""How a fault kind is carried out on this machine: the interface that each kind implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from tasks.inject.local.probes import Probe
from tasks.inject.local.target import TRACKER_PREFIX, Target
from tasks.inject.local.undo import UndoStep


class FaultParameters(BaseModel):
    """Base of the parameters of a kind: immutable, an unknown key is an error, units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


P = TypeVar("P", bound=FaultParameters)


class LocalFault(ABC, Generic[P]):
    """One injection of a kind on the local backend.

    Life: ``undo_steps`` goes to the journal, then ``refusal`` may stop it, then ``apply``; the steps undo it. The
    guardian compares the probe's figures before, during and after with ``shows_effect`` and ``is_normal``.
    """

    settle_s: float = 8.0
    """How long after the undo the probe may take to be normal again."""

    spares_processes: bool = True
    """The service's processes should live through the fault; if they do not, the verdict says so."""

    def __init__(self, target: Target, parameters: P, journal: Path) -> None:
        self.target = target
        self.parameters = parameters
        self.journal = journal

    @property
    def tracker(self) -> str:
        """Name of the sub-group for this injection's processes."""
        return f"{TRACKER_PREFIX}{self.journal.stem}"

    @abstractmethod
    def undo_steps(self) -> tuple[UndoStep, ...]:
        """What restores the target, whatever part of ``apply`` was done."""

    def refusal(self) -> str | None:
        """Why this fault must not act now; looked at just before ``apply``."""
        return None

    @abstractmethod
    def apply(self, run_for_s: float) -> str:
        """Act; processes started here end by themselves after ``run_for_s``. Returns the name of the executor.

        Raises:
            FaultError: it could not be done; the undo steps are run.
        """

    def alarm(self) -> str | None:
        """Why the fault must end before its time; asked about twice a second."""
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
