"""Executors by the agent on the target's node: NVIDIA management, signals to the engine."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Self, TypeVar

from pydantic import model_validator

from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.chaos_resource import resource_name
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor, name_of
from tasks.inject.executors.kubernetes.node_fault_resource import NodeFaults
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S
from tasks.inject.executors.kubernetes.undo import DeleteNodeFaults, KubernetesStep
from tasks.inject.probe import Outcome
from tasks.kube.node_fault import Action, NodeFaultSpec

P = TypeVar("P", bound=FaultParameters)
FALL = 0.1


class LimitParameters(FaultParameters):
    """Base of the parameters of a limit: either the field that ``absolute`` names, or ``fraction``. What is given
    replaces the default of the other."""

    absolute: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _in_place_of_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name, other in ((cls.absolute, "fraction"), ("fraction", cls.absolute)):
                if given.get(name) is not None and other not in given:
                    return {**given, other: None}
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if len(self.amount) != 1:
            raise ValueError(f"give either {self.absolute} or fraction")
        return self

    @property
    def amount(self) -> dict[str, float]:
        """Return ``value`` or ``fraction`` of the NodeFault."""
        given = self.model_dump()
        both = {"value": given[self.absolute], "fraction": given["fraction"]}
        return {name: amount for name, amount in both.items() if amount is not None}


L = TypeVar("L", bound=LimitParameters)


class NodeFaultExecutor(KubernetesExecutor[P]):
    """Creates one NodeFault per pod of the service. ``messages``: of the agents, as "limit clamped to 200 W"."""

    action: ClassVar[Action]
    messages: str = ""

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
        self.applied_at, self.messages = self.resources.await_active(len(specs))
        return f"node agent: {self.messages or self.action}"

    def lost(self) -> str | None:
        return self.resources.lost(LOOK_DEADLINE_S)


class LimitExecutor(NodeFaultExecutor[L]):
    """Lowers a limit of the GPU, so that a figure of it falls, and with it the speed of the engine."""

    def amount(self) -> dict[str, float]:
        return self.parameters.amount

    def outcome(self) -> Outcome:
        return gpu_probes.step_time(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during <= (1 - FALL) * before
