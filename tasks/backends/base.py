"""Interface of a backend for commands, campaigns and injections."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from tasks.backends import BACKENDS
from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.health import complete
from tasks.errors import ParamsError
from tasks.stack import Role, StackParams
from tasks.traffic import TokenLimits
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from tasks.actions.executor import ActionExecutor
    from tasks.case import Case, Stack
    from tasks.export.base import TelemetrySources
    from tasks.inject.executor import FaultSupport
    from tasks.injection import PlannedInjection
    from tasks.params import AskedCase, ExportParams, LoadParams, Windows

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
    """The published description of a running stack, read by load, inject and export on every backend."""

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
    """Output of a command: ``text`` for people, or ``document`` as JSON.

    ``failure``, unless None, makes the command fail and is printed on standard error (empty: ``text`` suffices).
    """

    text: str
    document: Any
    failure: str | None = None


@dataclass(frozen=True)
class CaseOrder:
    """A planned case, for a backend that makes cases itself. ``parameters``: what ``case.json`` records of them."""

    case_id: str
    campaign: str
    scenario: str | None
    seed: int
    injections: tuple[PlannedInjection, ...]
    load: LoadParams
    windows: Windows
    export: ExportParams
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ActionSupport:
    """A backend's support for actions. ``executors``: action -> executor, for actions whose own file does not name the
    backend. ``refused``: action -> why this backend cannot carry it out, for people. ``in_cases``: actions that it
    carries out within the cases that it makes, where no live stack is."""

    executors: Mapping[str, type[ActionExecutor[Any]]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    in_cases: Collection[str] = ()


@dataclass(frozen=True)
class Attachment:
    """Where to look for a stack that somebody else deployed.

    ``namespace``: of a Kubernetes cluster; ``auth``: of the telemetry servers, as in parameters, without any secret;
    ``traces``: kind and URL of a server that holds spans.
    """

    namespace: str | None = None
    context: str | None = None
    prometheus_url: str | None = None
    loki_url: str | None = None
    auth: Mapping[str, Any] = field(default_factory=dict)
    traces: tuple[str, str] | None = None


class Patient(ABC):
    """A stack under a case's load and faults, as somebody who may act on it sees it. Times are seconds after the start
    of the load; ``fault_s``, ``recovery_s`` and ``end_s``: when the faults begin, when they end by themselves, and when
    the recording ends."""

    begin_s: float
    """When its recordings begin."""
    fault_s: float
    recovery_s: float
    end_s: float

    @property
    @abstractmethod
    def now_s(self) -> float: ...

    @abstractmethod
    def advance(self, until_s: float) -> None:
        """Let time pass."""

    @abstractmethod
    def requests(self) -> pd.DataFrame:
        """Return what is known now of the requests that were due: ``scheduled``, ``first_token``, ``last_token`` (s;
        NaN: not yet, or never), ``failed`` (it has ended without an answer), ``output_tokens``."""

    @abstractmethod
    def recording(self, directory: Path) -> Case:
        """Publish the telemetry until now as a case below ``directory``."""

    @abstractmethod
    def act(self, action: str, target: str) -> float:
        """Carry out an action; return about how long (s) its target serves nothing, infinite: until it is taken back.

        Raises:
            RCArenaError: it cannot be carried out.
        """

    @abstractmethod
    def unresponsive(self) -> Sequence[str]:
        """Return the services that do not answer the platform's health check now."""

    @abstractmethod
    def load_share(self) -> float | None:
        """Return the offered load as a share of what all replicas could carry; None: not known."""

    def unseen(self) -> bool:
        """Return, once released, whether the probe of a fault never saw its effect: such a run says nothing of who
        acted."""
        return False

    def release(self) -> None:  # noqa: B027 (without a stack there is nothing to release)
        """End faults, actions that last, and the load; called once, whatever happened. Raises RCArenaError."""


class BranchingPatient(Patient):
    """A patient whose time can be copied."""

    @abstractmethod
    def another(self) -> BranchingPatient:
        """Return the same case as it is now, to go another way."""


class LiveStack(ABC):
    """A stack that is up, as one attempt at a case sees it."""

    runtime: Runtime

    @abstractmethod
    def enter(self) -> None:
        """Give this process access to the stack's network; called once, in a separate process."""

    @abstractmethod
    def unsteady(self) -> str | None:
        """Return why a case must not start now; None when all replicas serve, no request is open and answers are fast.

        Raises:
            StackNotRunningError: the stack has died.
        """

    def slow_or_failing(self, completions: int, limit_s: float) -> str | None:
        """Send ``completions`` requests (one per replica reaches most of them); return the first problem, else None."""
        for _ in range(completions):
            started = time.monotonic()
            problem = complete(self.runtime.gateway_url, self.runtime.model)
            taken_s = time.monotonic() - started
            if problem:
                return f"a completion failed: {problem}"
            if taken_s > limit_s:
                return f"a completion took {taken_s:.1f} s"
        return None

    def unresponsive(self) -> Sequence[str]:
        """Return the services that do not answer a health check now; none where nobody asks them."""
        return ()

    def load_share(self) -> float | None:
        """Return the present load as a share of what all replicas could carry; None: not known."""
        return None

    @abstractmethod
    def describe(self) -> Stack:
        """Return the stack descriptor of ``case.json``."""

    @abstractmethod
    def sources(self) -> TelemetrySources:
        """Return the telemetry sources of this stack."""

    def addresses(self) -> str:
        """Return the stack's URLs for people, in one line."""
        return f"gateway {self.runtime.gateway_url}"


class Backend(ABC, Generic[P]):
    """The stack of one workspace. ``up`` leases it: an owner that neither renews nor drops the lease loses it.

    A subclass registers itself with ``tasks.backends.register``. Its module must be cheap to import: methods import
    their dependencies themselves. ``up`` publishes the stack as ``tasks.workspace.RUNTIME_FILE``.
    """

    name: ClassVar[str]

    parameters: ClassVar[type[StackParams]]
    """The model of the section ``deploy``; its ``backend`` is the literal ``name``."""

    case_overhead_s: ClassVar[float] = 30
    """About how long a case takes beside its windows: until the stack is steady, the start, the export."""

    removable: ClassVar[Collection[str]] = ()
    """Things that ``down`` removes only on request, each an option of ``rcarena deploy down``."""

    shared: ClassVar[Collection[str]] = ()
    """The ``removable`` things that several stacks share: removed when all of them are down."""

    def __init__(self, deploy: P, workspace: Workspace) -> None:
        self.deploy = deploy
        self.workspace = workspace

    @classmethod
    def case_s(cls, deploy: P, windows_s: float) -> float:
        """Return about how long a case with windows of ``windows_s`` takes, in seconds."""
        return windows_s + cls.case_overhead_s

    def make_case(self, order: CaseOrder, cases: Path) -> Case:
        """Make the ordered case and publish it below ``cases``, for a backend that has no stack to act on.

        Raises:
            RCArenaError: the case cannot be made.
        """
        raise self._lacks("make_case", "make_case")

    def admit(self, order: CaseOrder) -> Patient:
        """Return the ordered case at its start, for somebody who may act on it; of a backend that makes cases.
        Raises RCArenaError."""
        able = [name for name, each in BACKENDS.all().items() if each.admits()]
        raise ParamsError([f"deploy.backend: `remediate` needs {' or '.join(able)} (got {self.name})"])

    @classmethod
    def makes_cases(cls) -> bool:
        """Return whether it implements ``make_case``."""
        return cls._defines("make_case")

    @classmethod
    def admits(cls) -> bool:
        """Return whether the experiment with actions can run there."""
        return cls._defines("admit")

    @classmethod
    def problems(cls, deploy: P) -> list[str]:
        """Return problems of ``deploy`` across fields, one line each, naming the key."""
        return []

    @classmethod
    def campaign_problems(cls, deploy: P) -> list[str]:
        """Return what ``deploy`` lacks for recording cases, one line each, naming the key; other commands need less."""
        return []

    @classmethod
    def injection_problems(cls, deploy: P, cases: Sequence[AskedCase]) -> list[str]:
        """Return why injections must not be carried out there, one line each, naming the key."""
        return []

    @classmethod
    def token_limits(cls, deploy: P) -> TokenLimits:
        """Return what is known of the engine before the stack runs; asked when ``problems`` finds none."""
        return TokenLimits()

    @classmethod
    @abstractmethod
    def read_runtime(cls, directory: Path) -> Runtime | None:
        """Return the stack that was last published in ``directory``, alive or dead; None when there is none."""

    @classmethod
    @abstractmethod
    def faults(cls) -> FaultSupport:
        """Return the backend's support for faults."""

    @classmethod
    def actions(cls) -> ActionSupport:
        """Return the backend's support for actions; by default what the files of the actions name."""
        return ActionSupport()

    @abstractmethod
    def up(self, say: Say) -> None:
        """Bring the stack up, or find it up.

        Raises:
            DeployError: the stack is not up; the message gives the reason and the remedy.
        """

    def up_for(self, hold_s: int, say: Say) -> None:
        """Bring the stack up, or find it up, and lease it for ``hold_s`` beyond this process; 0: not at all.

        Raises:
            DeployError: the stack is not up.
        """
        self.up(say)
        if hold_s:
            self.hold_lease(hold_s)
        else:
            self.drop_lease()
        say(self.live().addresses())

    @abstractmethod
    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        """Take the stack down, and the ``removable`` things named in ``also``; return False when there was none."""

    def is_up(self) -> bool:
        runtime = self.read_runtime(self.workspace.stack)
        return runtime is not None and runtime.alive

    @abstractmethod
    def renew_lease(self) -> None: ...

    @abstractmethod
    def hold_lease(self, duration_s: int) -> None:
        """Lease the stack for ``duration_s`` without renewal. Raises DeployError."""

    @abstractmethod
    def drop_lease(self) -> None:
        """Release the lease; the stack stays up."""

    def live(self) -> LiveStack:
        """Return the running stack. Raises StackNotRunningError when none is up."""
        runtime = self.read_runtime(self.workspace.stack)
        if runtime is None or not runtime.alive:
            raise StackNotRunningError(f"no stack runs in {self.workspace.live}: start one with `rcarena deploy up`")
        return self.live_stack(runtime)

    @abstractmethod
    def live_stack(self, runtime: Any) -> LiveStack:
        """Return the published stack ``runtime`` for an attempt at a case."""

    @classmethod
    @abstractmethod
    def status(cls, workspace: Workspace, deploy: P | None) -> Answer:
        """Return what runs in ``workspace``; ``deploy`` None: no parameters of this backend are known."""

    @abstractmethod
    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        """Return what is missing for the stack; ``missing_series`` None: no stack runs, skip that check."""

    @classmethod
    def command_in(cls, runtime: Any, service: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs ``command`` inside a service. Raises ParamsError."""
        raise cls._lacks("deploy exec", "command_in")

    def render(self, directory: Path) -> Sequence[Path]:
        """Write everything that ``up`` would apply; return the files."""
        raise self._lacks("deploy render", "render")

    def plan(self) -> Answer:
        """Return what ``up`` would change."""
        raise self._lacks("deploy plan", "plan")

    @classmethod
    def calibrate(cls, cases: Sequence[Case], base: str | None, name: str) -> Answer:
        """Fit the constants of a simulation to recorded cases: ``text`` is the file to keep, ``document`` says how well
        each law fits. ``base``: the constants that the cases do not show. Raises RCArenaError."""
        raise cls._lacks("calibrate", "calibrate")

    @classmethod
    def make_twin(cls, case: Case, calibration: str, cases: Path) -> Case | None:
        """Simulate a recorded case again, with the same id, below ``cases``; None if a kind of it cannot be simulated.
        Raises RCArenaError."""
        raise cls._lacks("twins", "make_twin")

    @classmethod
    def propose(cls, order: Attachment) -> Answer:
        """Look for a stack, without changing anything: ``text`` says what was found, ``document["file"]`` are
        parameters to attach it by. Raises RCArenaError."""
        raise cls._lacks("attach", "propose")

    @classmethod
    def charts(cls, check: bool) -> Answer | None:
        """Return the pinned third-party packages of stacks, None without any; ``check``: look them up in their
        repositories."""
        return None

    @classmethod
    def _lacks(cls, command: str, method: str) -> ParamsError:
        """Return the error for a command whose ``method`` this backend does not implement."""
        able = backends_with(method)
        return ParamsError([f"deploy.backend: `{command}` needs {' or '.join(able)} (got {cls.name})"])

    @classmethod
    def _defines(cls, method: str) -> bool:
        return next(each for each in cls.__mro__ if method in vars(each)) is not Backend


def backends_with(method: str) -> list[str]:
    """Return the names of the backends that implement an optional ``method``."""
    return [name for name, each in BACKENDS.all().items() if each._defines(method)]
