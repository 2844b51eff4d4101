"""What the orchestration needs of a backend. Everything else about a backend stays inside deploy, inject and export."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from tasks.deploy.health import complete
from tasks.stack import StackParams
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.case import Stack
    from tasks.export.base import TelemetrySources
    from tasks.inject.executor import FaultExecutor

Say = Callable[[str], None]
P = TypeVar("P", bound=StackParams)


class LiveStack(ABC):
    """A stack that is up, as one attempt at a case sees it."""

    runtime: Any
    """What ``tasks.inject`` is given: the published description of the running stack."""

    @property
    def gateway_url(self) -> str:
        return str(self.runtime.gateway_url)

    @property
    def model(self) -> str:
        """The model name that requests carry."""
        return str(self.runtime.model)

    @property
    def versions(self) -> dict[str, str]:
        return dict(self.runtime.versions)

    @abstractmethod
    def enter(self) -> None:
        """Make this process able to reach the stack; called once, in a process of its own."""

    @abstractmethod
    def unsteady(self) -> str | None:
        """Why a case must not start now; None when every replica serves, nothing is queued and answers come at once.

        Raises:
            StackNotRunningError: the stack has died.
        """

    def slow_or_failing(self, completions: int, limit_s: float) -> str | None:
        """What is wrong with the next ``completions``: with one per replica each is likely to be asked."""
        for _ in range(completions):
            started = time.monotonic()
            problem = complete(self.gateway_url, self.model)
            taken_s = time.monotonic() - started
            if problem:
                return f"a completion failed: {problem}"
            if taken_s > limit_s:
                return f"a completion took {taken_s:.1f} s"
        return None

    @abstractmethod
    def describe(self) -> Stack:
        """The stack descriptor of ``case.json``."""

    @abstractmethod
    def sources(self) -> TelemetrySources:
        """Where the telemetry of this stack is."""


class Backend(ABC, Generic[P]):
    """The stack of one workspace. ``up`` leases it: an owner that neither renews nor drops the lease loses it.

    Importing its module must be cheap: what it needs to work is imported by the methods.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[StackParams]]
    """The model of the section ``deploy``."""

    def __init__(self, deploy: P, workspace: Workspace) -> None:
        self.deploy = deploy
        self.workspace = workspace

    @classmethod
    def executors(cls) -> Mapping[str, type[FaultExecutor[Any, Any]]]:
        """What carries out, here, fault kinds whose own file does not know this backend: executor by kind."""
        return {}

    @abstractmethod
    def up(self, say: Say) -> None:
        """Bring the stack up, or find it up.

        Raises:
            DeployError: it is not up; the message says why and what to do.
        """

    @abstractmethod
    def down(self) -> bool:
        """Take the stack down; False when there was none."""

    @abstractmethod
    def is_up(self) -> bool: ...

    @abstractmethod
    def renew_lease(self) -> None: ...

    @abstractmethod
    def hold_lease(self, duration_s: int) -> None:
        """Keep the stack up, and others off it, for so long without a renewal. Raises DeployError."""

    @abstractmethod
    def drop_lease(self) -> None:
        """Keep the stack up without an owner."""

    @abstractmethod
    def live(self) -> LiveStack:
        """Raises StackNotRunningError when no stack is up."""
