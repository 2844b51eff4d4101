"""What the commands, the campaign and the injection need of a backend. All else about it stays in its own folders."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from tasks.backends import BACKENDS
from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.health import complete
from tasks.errors import ParamsError
from tasks.stack import Role, StackParams
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.case import Stack
    from tasks.export.base import TelemetrySources
    from tasks.inject.executor import FaultSupport

Say = Callable[[str], None]
MissingSeries = Callable[[], list[str]]
"""Names the metric series that the running stack should have and lacks. Raises RCArenaError when it cannot tell."""

P = TypeVar("P", bound=StackParams)


class RuntimeService(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def role(self) -> Role: ...


class Runtime(Protocol):
    """The published description of a running stack: what load, inject and export read of it on every backend."""

    @property
    def backend(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def services(self) -> Sequence[RuntimeService]: ...

    @property
    def gateway_url(self) -> str: ...

    @property
    def model(self) -> str:
        """The model name that requests carry."""

    @property
    def versions(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Answer:
    """What a command shows: ``text`` to people, or ``document`` as JSON.

    ``failure`` makes the command fail, and is shown on standard error; empty when the text says it all.
    """

    text: str
    document: Any
    failure: str | None = None


class LiveStack(ABC):
    """A stack that is up, as one attempt at a case sees it."""

    runtime: Runtime

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
            problem = complete(self.runtime.gateway_url, self.runtime.model)
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

    def addresses(self) -> str:
        """Where people reach it, in one line."""
        return f"gateway {self.runtime.gateway_url}"


class Backend(ABC, Generic[P]):
    """The stack of one workspace. ``up`` leases it: an owner that neither renews nor drops the lease loses it.

    A subclass registers itself with ``tasks.backends.register``. Its module must be cheap to import: what it needs to
    work is imported by the methods. ``up`` publishes the stack as ``tasks.backends.RUNTIME_FILE``.
    """

    name: ClassVar[str]

    parameters: ClassVar[type[StackParams]]
    """The model of the section ``deploy``; its ``backend`` is the literal ``name``."""

    removable: ClassVar[Collection[str]] = ()
    """What ``down`` removes only when it is asked to: options of ``rcarena deploy down``."""

    def __init__(self, deploy: P, workspace: Workspace) -> None:
        self.deploy = deploy
        self.workspace = workspace

    @classmethod
    def problems(cls, deploy: P) -> list[str]:
        """Problems of ``deploy`` that no single field shows, one line each, naming the key."""
        return []

    @classmethod
    @abstractmethod
    def read_runtime(cls, directory: Path) -> Runtime | None:
        """Return the stack that was last published in ``directory``, alive or dead; None when there is none."""

    @classmethod
    @abstractmethod
    def faults(cls) -> FaultSupport:
        """Return what injecting needs."""

    @abstractmethod
    def up(self, say: Say) -> None:
        """Bring the stack up, or find it up.

        Raises:
            DeployError: it is not up; the message says why and what to do.
        """

    @abstractmethod
    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        """Take the stack down, with what ``also`` names of ``removable``; False when there was none."""

    def is_up(self) -> bool:
        runtime = self.read_runtime(self.workspace.stack)
        return runtime is not None and runtime.alive

    @abstractmethod
    def renew_lease(self) -> None: ...

    @abstractmethod
    def hold_lease(self, duration_s: int) -> None:
        """Keep the stack up, and others off it, for so long without a renewal. Raises DeployError."""

    @abstractmethod
    def drop_lease(self) -> None:
        """Keep the stack up without an owner."""

    def live(self) -> LiveStack:
        """Raises StackNotRunningError when no stack is up."""
        runtime = self.read_runtime(self.workspace.stack)
        if runtime is None or not runtime.alive:
            raise StackNotRunningError(f"no stack runs in {self.workspace.root}: start one with `rcarena deploy up`")
        return self.live_stack(runtime)

    @abstractmethod
    def live_stack(self, runtime: Any) -> LiveStack:
        """Return the published stack as an attempt sees it."""

    @classmethod
    @abstractmethod
    def status(cls, workspace: Workspace, deploy: P | None) -> Answer:
        """Say what runs in ``workspace``; ``deploy`` None: there are no parameters of this backend at hand."""

    @abstractmethod
    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        """Say what is missing for the stack; ``missing_series`` None: no stack runs that could be asked for them."""

    @classmethod
    def command_in(cls, runtime: Any, service: str, command: Sequence[str]) -> list[str]:
        """Return the program, with its arguments, that runs ``command`` inside a service. Raises ParamsError."""
        raise cls._lacks("deploy exec", "command_in")

    def render(self, directory: Path) -> Sequence[Path]:
        """Write all that ``up`` would apply, and return the files."""
        raise self._lacks("deploy render", "render")

    def plan(self) -> Answer:
        """Say what ``up`` would change."""
        raise self._lacks("deploy plan", "plan")

    @classmethod
    def charts(cls, check: bool) -> Answer | None:
        """List the pinned third-party packages that stacks can need; ``check`` asks whether they can still be had.
        None: there are none."""
        return None

    @classmethod
    def _lacks(cls, command: str, method: str) -> ParamsError:
        """The error of a command that this backend has no ``method`` for."""
        able = [name for name, each in BACKENDS.all().items() if each._defines(method)]
        return ParamsError([f"deploy.backend: `{command}` needs {' or '.join(able)} (got {cls.name})"])

    @classmethod
    def _defines(cls, method: str) -> bool:
        return next(each for each in cls.__mro__ if method in vars(each)) is not Backend
