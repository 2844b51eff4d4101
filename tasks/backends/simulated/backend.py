"""The simulated backend as commands and campaigns see it: there is no stack, it makes cases itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.base import ActionSupport, Answer, Backend, CaseOrder, MissingSeries, Say
from tasks.backends.simulated.params import SimulatedDeployParams
from tasks.deploy.errors import StackNotRunningError
from tasks.errors import ParamsError
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.backends.base import LiveStack, Patient, Runtime
    from tasks.case import Case
    from tasks.inject.executor import FaultSupport

DEFAULT_BASE = "local-toy"
"""The calibration whose constants stay where recorded cases do not show others."""
SECONDS_PER_REPLICA_SECOND = 1e-4
"""About how long a core computes for a second of one replica; benchmarks/simulated_fleet.py measures it."""
NO_STACK = "a simulated stack is never up: its cases are computed by `rcarena collect`"


@register
class SimulatedBackend(Backend[SimulatedDeployParams]):
    name = "simulated"
    parameters = SimulatedDeployParams

    @classmethod
    def case_s(cls, deploy: SimulatedDeployParams, windows_s: float) -> float:
        return 1 + SECONDS_PER_REPLICA_SECOND * deploy.replicas * windows_s

    @classmethod
    def problems(cls, deploy: SimulatedDeployParams) -> list[str]:
        from tasks.backends.simulated.calibration import read_calibration

        try:
            read_calibration(deploy.calibration)
        except ParamsError as error:
            return list(error.problems)
        return []

    @classmethod
    def read_runtime(cls, directory: Path) -> Runtime | None:
        return None

    @classmethod
    def actions(cls) -> ActionSupport:
        from tasks.backends.simulated.patient import RENEWS

        no_stack = "its cases are computed; `rcarena remediate` acts in them"
        return ActionSupport(refused=dict.fromkeys(RENEWS, no_stack), in_cases=frozenset(RENEWS))

    @classmethod
    def faults(cls) -> FaultSupport:
        from tasks.backends.simulated.faults import SUPPORT

        return SUPPORT

    def make_case(self, order: CaseOrder, cases: Path) -> Case:
        from tasks.backends.simulated.maker import make_case

        return make_case(self.deploy, order, cases)

    def admit(self, order: CaseOrder) -> Patient:
        from tasks.backends.simulated.patient import admit

        return admit(self.deploy, order)

    @classmethod
    def calibrate(cls, cases: Sequence[Case], base: str | None, name: str) -> Answer:
        from tasks.backends.simulated.calibrate import calibrate
        from tasks.backends.simulated.calibration import read_calibration

        fit = calibrate(cases, read_calibration(base or DEFAULT_BASE), name)
        return Answer(fit.calibration.dump(), {"requests": fit.requests, "r_squared": dict(fit.r_squared)})

    @classmethod
    def make_twin(cls, case: Case, calibration: str, cases: Path) -> Case | None:
        from tasks.backends.simulated.twin import make_twin

        return make_twin(case, calibration, cases)

    def live(self) -> LiveStack:
        raise StackNotRunningError(NO_STACK)

    def up(self, say: Say) -> None:
        say(NO_STACK)

    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        return False

    def renew_lease(self) -> None:
        """There is nothing to lease."""

    def hold_lease(self, duration_s: int) -> None:
        """There is nothing to lease."""

    def drop_lease(self) -> None:
        """There is nothing to lease."""

    def live_stack(self, runtime: Runtime) -> LiveStack:
        raise StackNotRunningError(NO_STACK)

    @classmethod
    def status(cls, workspace: Workspace, deploy: SimulatedDeployParams | None) -> Answer:
        return Answer(NO_STACK, {"state": "down"}, "")

    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        return Answer("a simulation runs everywhere", [])
