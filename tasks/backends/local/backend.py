"""The local backend: real processes in namespaces and cgroups of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.base import Backend, Say
from tasks.deploy.local.params import LocalDeployParams

if TYPE_CHECKING:
    from tasks.backends.local.stack import LocalStack


@register
class LocalBackend(Backend[LocalDeployParams]):
    name = "local"
    parameters = LocalDeployParams

    def up(self, say: Say) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.up(self.deploy, self.workspace.stack, say)

    def down(self) -> bool:
        from tasks.deploy.local import lifecycle

        return lifecycle.down(self.workspace.stack)

    def is_up(self) -> bool:
        from tasks.deploy.local.runtime import read_runtime

        runtime = read_runtime(self.workspace.stack)
        return runtime is not None and runtime.alive

    def renew_lease(self) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.renew_lease(self.workspace.stack)

    def hold_lease(self, duration_s: int) -> None:
        """Hold it for ever: no other workspace can reach this stack."""
        self.drop_lease()

    def drop_lease(self) -> None:
        from tasks.deploy.local import lifecycle

        lifecycle.drop_lease(self.workspace.stack)

    def live(self) -> LocalStack:
        from tasks.backends.local.stack import LocalStack
        from tasks.deploy.local.runtime import running_stack

        return LocalStack(running_stack(self.workspace.stack), self.deploy)
