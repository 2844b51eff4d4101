"""The Kubernetes backend: a stack in a namespace of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.base import ActionSupport, Answer, Backend, MissingSeries, Say
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.errors import ParamsError
from tasks.traffic import TokenLimits
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.backends.kubernetes.stack import KubernetesStack
    from tasks.deploy.kubernetes.runtime import KubernetesRuntime
    from tasks.inject.executor import FaultSupport


REFUSED_ACTIONS = {
    "scale-out": "a stack has the replicas that it was deployed with; `rcarena deploy up` with more `deploy.replicas`",
    "roll-back": "KubeRay keeps no earlier version; `rcarena deploy up` with the parameters of before",
}


@register
class KubernetesBackend(Backend[KubernetesDeployParams]):
    name = "kubernetes"
    parameters = KubernetesDeployParams
    removable = ("charts", "volumes")
    shared = ("charts",)

    @classmethod
    def problems(cls, deploy: KubernetesDeployParams) -> list[str]:
        from tasks.deploy.kubernetes.validate import validate_deploy_params

        return validate_deploy_params(deploy)

    @classmethod
    def token_limits(cls, deploy: KubernetesDeployParams) -> TokenLimits:
        from tasks.deploy.kubernetes.models import max_model_len

        return TokenLimits(total=max_model_len(deploy.model, deploy.engine_arguments))

    @classmethod
    def read_runtime(cls, directory: Path) -> KubernetesRuntime | None:
        from tasks.deploy.kubernetes.runtime import KubernetesRuntime

        return KubernetesRuntime.read(directory)

    @classmethod
    def faults(cls) -> FaultSupport:
        from tasks.inject.executors.kubernetes.support import SUPPORT

        return SUPPORT

    @classmethod
    def actions(cls) -> ActionSupport:
        return ActionSupport(refused=REFUSED_ACTIONS)

    def up(self, say: Say) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.up(self.deploy, self.workspace.stack, say)

    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        from tasks.deploy.kubernetes import teardown

        progress = say or teardown.logger.info
        wanted = {each: each in also for each in self.removable}
        return teardown.down(self.deploy, self.workspace.stack, progress, **wanted)

    def renew_lease(self) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.renew_lease(self.workspace.stack)

    def hold_lease(self, duration_s: int) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.hold_lease(self.workspace.stack, duration_s)

    def drop_lease(self) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.drop_lease(self.workspace.stack)

    def live_stack(self, runtime: KubernetesRuntime) -> KubernetesStack:
        """Return the stack as last published; the exporter finds pods that were replaced since."""
        from tasks.backends.kubernetes.stack import KubernetesStack

        return KubernetesStack(runtime, self.deploy)

    @classmethod
    def status(cls, workspace: Workspace, deploy: KubernetesDeployParams | None) -> Answer:
        from tasks.backends.kubernetes import answers

        if deploy is None:
            raise ParamsError(
                [f"deploy.backend: must be {cls.name}, that of the stack that is up, in usable parameters"]
            )
        return answers.status(deploy, workspace.stack)

    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        from tasks.backends.kubernetes import answers

        return answers.preflight(self.deploy, missing_series)

    @classmethod
    def command_in(cls, runtime: KubernetesRuntime, service: str, command: Sequence[str]) -> list[str]:
        from tasks.backends.kubernetes import answers

        return answers.kubectl_exec(runtime, service, command)

    def render(self, directory: Path) -> Sequence[Path]:
        from tasks.deploy.kubernetes.render import write_manifests

        return write_manifests(self.deploy, directory)

    def plan(self) -> Answer:
        from tasks.backends.kubernetes import answers

        return answers.plan(self.deploy)

    @classmethod
    def charts(cls, check: bool) -> Answer:
        from tasks.backends.kubernetes import answers

        return answers.charts(check)
