"""The steps that restore a service on a cluster."""

from __future__ import annotations

from typing import Literal

from tasks.inject.executor import UndoReport, UndoStepBase
from tasks.inject.executors.kubernetes.chaos_resource import ChaosKind, ChaosResource
from tasks.inject.executors.kubernetes.fault_pod import FaultPod
from tasks.inject.executors.kubernetes.node_fault_resource import NodeFaults
from tasks.inject.executors.kubernetes.target import KubernetesTarget


class DeleteChaos(UndoStepBase[KubernetesTarget]):
    """Delete a Chaos Mesh resource; its controller undoes the fault before it lets the resource go."""

    step: Literal["delete-chaos"] = "delete-chaos"
    kind: ChaosKind
    namespace: str
    resource: str

    def undo(self, target: KubernetesTarget) -> UndoReport | None:
        return self._chaos(target).remove()

    def left(self, target: KubernetesTarget) -> list[str]:
        chaos = self._chaos(target)
        return [] if chaos.find() is None else [f"{chaos} exists"]

    def _chaos(self, target: KubernetesTarget) -> ChaosResource:
        return ChaosResource(target, self.kind, self.namespace, self.resource)


class DeleteNodeFaults(UndoStepBase[KubernetesTarget]):
    """Delete the NodeFaults of an injection; the nodes' agents restore before they let them go."""

    step: Literal["delete-node-faults"] = "delete-node-faults"
    injection: str

    def undo(self, target: KubernetesTarget) -> UndoReport | None:
        return NodeFaults(target, self.injection).remove()

    def left(self, target: KubernetesTarget) -> list[str]:
        found = NodeFaults(target, self.injection).all()
        return [f"{target.name}: NodeFault {each['metadata']['name']} exists" for each in found]


class DeleteFaultPods(UndoStepBase[KubernetesTarget]):
    """Delete the pods that an injection runs beside its target."""

    step: Literal["delete-fault-pods"] = "delete-fault-pods"
    injection: str

    def undo(self, target: KubernetesTarget) -> UndoReport | None:
        FaultPod(target, self.injection).remove()
        return None

    def left(self, target: KubernetesTarget) -> list[str]:
        found = FaultPod(target, self.injection).all()
        return [f"{target.name}: pod {each['metadata']['name']} of the fault exists" for each in found]


KubernetesStep = DeleteChaos | DeleteNodeFaults | DeleteFaultPods
"""The undo steps of this backend, told apart by ``step``."""
