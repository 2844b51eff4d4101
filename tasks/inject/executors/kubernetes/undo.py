"""The steps that restore a service on a cluster."""

from __future__ import annotations

from typing import Literal

from tasks.inject.executor import Undone, UndoStepBase
from tasks.inject.executors.kubernetes.chaos_resource import ChaosKind, ChaosResource
from tasks.inject.executors.kubernetes.target import KubernetesTarget


class DeleteChaos(UndoStepBase[KubernetesTarget]):
    """Delete a Chaos Mesh resource; its controller undoes the fault before it lets the resource go."""

    step: Literal["delete-chaos"] = "delete-chaos"
    kind: ChaosKind
    namespace: str
    resource: str

    def undo(self, target: KubernetesTarget) -> Undone | None:
        return self._chaos(target).remove()

    def left(self, target: KubernetesTarget) -> list[str]:
        chaos = self._chaos(target)
        return [] if chaos.find() is None else [f"{chaos} exists"]

    def _chaos(self, target: KubernetesTarget) -> ChaosResource:
        return ChaosResource(target, self.kind, self.namespace, self.resource)


KubernetesStep = DeleteChaos
"""The union of the undo steps of this backend, told apart by ``step``."""
