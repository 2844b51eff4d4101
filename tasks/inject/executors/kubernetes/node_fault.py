"""Executors by the agent on the target's node: NVIDIA management, signals to the engine."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, TypeVar

from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.chaos_resource import resource_name
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor, name_of
from tasks.inject.executors.kubernetes.node_fault_resource import NodeFaults
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S
from tasks.inject.executors.kubernetes.undo import DeleteNodeFaults, KubernetesStep
from tasks.kube.node_fault import Action, NodeFaultSpec

P = TypeVar("P", bound=FaultParameters)


class NodeFaultExecutor(KubernetesExecutor[P]):
    """Creates one NodeFault per pod of the service. ``said``: what the agents answered, as "limit clamped to 200 W"."""

    action: ClassVar[Action]
    said: str = ""

    @abstractmethod
    def amount(self) -> dict[str, float]:
        """Return ``value`` or ``fraction`` of the NodeFault, or neither."""

    @property
    def resources(self) -> NodeFaults:
        return NodeFaults(self.target, resource_name(self.injection_id))

    def undo_steps(self) -> tuple[KubernetesStep, ...]:
        return (DeleteNodeFaults(injection=resource_name(self.injection_id)),)

    def apply(self, run_for_s: float) -> str:
        pods = self.take_pods()
        specs = tuple(
            NodeFaultSpec(
                action=self.action,
                node_name=str(pod["spec"]["nodeName"]),
                pod_uid=str(pod["metadata"]["uid"]),
                pod_name=name_of(pod),
                duration_seconds=math.ceil(run_for_s),
                **self.amount(),
            )
            for pod in pods
        )
        self.resources.create(self.injection_id, specs)
        self.applied_at, self.said = self.resources.await_active(len(specs))
        return f"node agent: {self.said or self.action}"

    def alarm(self) -> str | None:
        return super().alarm() or self._lost()

    def _lost(self) -> str | None:
        try:
            return self.resources.lost(LOOK_DEADLINE_S)
        except FaultError:
            return None
