"""The interface of an action on every backend. An action uses the targets, steps and journals of the faults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from tasks.inject.executor import FaultTarget, UndoStepBase
from tasks.stack import Role

T = TypeVar("T", bound=FaultTarget)


class ActionExecutor(ABC, Generic[T]):
    """Base of the executors: carries out one action on one service.

    ``lasts``: the action holds until it is undone, and ``steps`` undo it. Otherwise there is no way back, and ``steps``
    carry it out: each can be repeated, so that whoever finds it half done finishes it.
    """

    lasts: ClassVar[bool] = False

    roles: ClassVar[frozenset[Role] | None] = None
    """Roles that this backend can act on, where they are fewer than the action's."""

    def __init__(self, target: T, action_id: str) -> None:
        self.target = target
        self.action_id = action_id

    def refusal(self) -> str | None:
        """Return why the action cannot be carried out now, else None.

        Raises:
            FaultError, OSError: it cannot be determined.
        """
        return None

    @abstractmethod
    def steps(self) -> tuple[UndoStepBase[Any], ...]: ...

    def begin(self) -> None:
        """Carry out an action that ``lasts``. Raises FaultError, OSError: it could not be done; ``steps`` are run."""
        raise NotImplementedError
