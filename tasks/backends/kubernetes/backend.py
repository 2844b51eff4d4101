"""The Kubernetes backend: a stack in a namespace of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.base import Backend, Say
from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.kubernetes.params import KubernetesDeployParams

if TYPE_CHECKING:
    from tasks.backends.kubernetes.stack import KubernetesStack


@register
class KubernetesBackend(Backend[KubernetesDeployParams]):
    name = "kubernetes"
    parameters = KubernetesDeployParams

    def up(self, say: Say) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.up(self.deploy, self.workspace.stack, say)

    def down(self) -> bool:
        from tasks.deploy.kubernetes import teardown

        return teardown.down(self.deploy, self.workspace.stack)

    def is_up(self) -> bool:
        from tasks.deploy.kubernetes.runtime import read_runtime

        runtime = read_runtime(self.workspace.stack)
        return runtime is not None and runtime.alive

    def renew_lease(self) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.renew_lease(self.workspace.stack)

    def hold_lease(self, duration_s: int) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.hold_lease(self.workspace.stack, duration_s)

    def drop_lease(self) -> None:
        from tasks.deploy.kubernetes import lifecycle

        lifecycle.drop_lease(self.workspace.stack)

    def live(self) -> KubernetesStack:
        """Return the stack as the last ``up`` published it; pods that were replaced since are found by the exporter."""
        from tasks.backends.kubernetes.stack import KubernetesStack
        from tasks.deploy.kubernetes.runtime import read_runtime

        runtime = read_runtime(self.workspace.stack)
        if runtime is None or not runtime.alive:
            raise StackNotRunningError(f"no stack runs in {self.workspace.root}: start one with `rcarena deploy up`")
        return KubernetesStack(runtime, self.deploy)
