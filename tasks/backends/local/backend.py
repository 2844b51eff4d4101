"""The local backend: real processes in namespaces and cgroups of this machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.base import ActionSupport, Answer, Backend, MissingSeries, Say
from tasks.deploy.local.params import LocalDeployParams
from tasks.errors import ParamsError
from tasks.text import suggest
from tasks.traffic import TokenLimits
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.backends.local.stack import LocalStack
    from tasks.deploy.local.runtime import StackRuntime
    from tasks.inject.executor import FaultSupport

FABRIC = "fabric"


REFUSED_ACTIONS = {
    "evict": "its replicas have no GPU to share",
    "scale-out": "its replicas are fixed when it starts",
    "roll-back": "it has one version",
}


@register
class LocalBackend(Backend[LocalDeployParams]):
    name = "local"
    parameters = LocalDeployParams
    case_overhead_s = 10

    @classmethod
    def token_limits(cls, deploy: LocalDeployParams) -> TokenLimits:
        return TokenLimits(prompt=deploy.model.max_prompt_tokens, total=deploy.model.max_model_len)

    @classmethod
    def read_runtime(cls, directory: Path) -> StackRuntime | None:
        from tasks.deploy.local.runtime import StackRuntime

        return StackRuntime.read(directory)

    @classmethod
    def faults(cls) -> FaultSupport:
        from tasks.inject.executors.local.support import SUPPORT

        return SUPPORT

    @classmethod
    def actions(cls) -> ActionSupport:
        return ActionSupport(refused=REFUSED_ACTIONS)

    @classmethod
    def admits(cls) -> bool:
        return True

    def up(self, say: Say) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.up(self.deploy, self.workspace.stack, say)

    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        from tasks.deploy.local import lifecycle

        return lifecycle.down(self.workspace.stack)

    def renew_lease(self) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.renew_lease(self.workspace.stack)

    def hold_lease(self, duration_s: int) -> None:
        """Drop the lease, so that the stack never expires: no other workspace can reach it."""
        self.drop_lease()

    def drop_lease(self) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.drop_lease(self.workspace.stack)

    def live_stack(self, runtime: StackRuntime) -> LocalStack:
        from tasks.backends.local.stack import LocalStack

        return LocalStack(runtime, self.deploy)

    @classmethod
    def status(cls, workspace: Workspace, deploy: LocalDeployParams | None) -> Answer:
        from tasks.deploy.local import lifecycle

        found = lifecycle.status(workspace.stack)
        lines = [f"{found.state}: {found.detail}"]
        for service in found.services:
            quota = "no quota" if service.cpu_cores is None else f"{service.cpu_cores:g} cores"
            lines.append(
                f"  {service.name:<18} {service.role:<8} {service.address:<12} "
                f"{service.processes:>3} processes  {quota:<10} {service.memory_mb:6.0f} MB"
            )
        return Answer("\n".join(lines), asdict(found), None if found.state == "ready" else "")

    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        from tasks.deploy.local.preflight import problems

        found = problems()
        if found:
            return Answer("", found, "\n".join(found))
        return Answer("this machine can run the local stack", found)

    @classmethod
    def command_in(cls, runtime: StackRuntime, service: str, command: Sequence[str]) -> list[str]:
        names = [FABRIC, *(each.name for each in runtime.services)]
        if service not in names:
            raise ParamsError([f"unknown service '{service}'; {suggest(service, names)}"])
        prefix = runtime.enter_fabric() if service == FABRIC else runtime.enter_service(service)
        return [*prefix, *command]
