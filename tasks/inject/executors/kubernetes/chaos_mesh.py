"""Faults that Chaos Mesh carries out: StressChaos, NetworkChaos and PodChaos.

Each resource has a ``duration``, so the fault ends even when all our processes are dead. It lies in the namespace of
the stack and selects there, so Chaos Mesh needs no rights beyond it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeVar

from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import probes
from tasks.inject.executors.kubernetes.chaos_resource import (
    ChaosKind,
    ChaosResource,
    ChaosStatus,
    resource_name,
)
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor, name_of
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S
from tasks.inject.executors.kubernetes.undo import DeleteChaos, KubernetesStep
from tasks.inject.probe import Probe

P = TypeVar("P", bound=FaultParameters)
DEVICE = "eth0"
"""The link of a pod; loopback between its containers is not impaired."""


class ChaosExecutor(KubernetesExecutor[P]):
    """Carries out a fault by one Chaos Mesh resource."""

    chaos: ClassVar[ChaosKind]
    by_container: ClassVar[bool]
    """True if the resource selects containers, not whole pods."""

    @abstractmethod
    def action(self) -> dict[str, Any]:
        """Return the part of the spec with the action."""

    @property
    def resource(self) -> ChaosResource:
        return ChaosResource(self.target, self.chaos, self.target.namespace, resource_name(self.injection_id))

    def undo_steps(self) -> tuple[KubernetesStep, ...]:
        chaos = self.resource
        return (DeleteChaos(kind=chaos.kind, namespace=chaos.namespace, resource=chaos.name),)

    def spec(self, run_for_s: float) -> dict[str, Any]:
        labels = dict(part.split("=", 1) for part in self.target.selector.split(","))
        containers = {"containerNames": [self.target.container]} if self.by_container else {}
        return {
            "mode": "all",
            "selector": {"namespaces": [self.target.namespace], "labelSelectors": labels},
            **containers,
            **self.action(),
            "duration": f"{math.ceil(run_for_s)}s",
        }

    def apply(self, run_for_s: float) -> str:
        pods = self.take_pods()
        chaos = self.resource
        chaos.create(chaos.document(self.injection_id, self.spec(run_for_s)))
        suffix = f"/{self.target.container}" if self.by_container else ""
        expected = frozenset(f"{self.target.namespace}/{name_of(pod)}{suffix}" for pod in pods)
        status = chaos.await_injected(expected)
        self.applied_at = min(status.times("Apply"), default=None)
        return f"Chaos Mesh: {self.chaos}"

    def lost(self) -> str | None:
        document = self.resource.find(LOOK_DEADLINE_S)
        if document is None or document["metadata"].get("deletionTimestamp"):
            return f"{self.chaos} {self.resource.name} was deleted during the fault"
        lost = ChaosStatus.of(document).not_in("Injected")
        return f"Chaos Mesh has lost the fault: {lost[0]}" if lost else None


class StressExecutor(ChaosExecutor[P]):
    """Runs stress-ng in the cgroup of the container, within the container's limits."""

    chaos = "StressChaos"
    by_container = True

    @abstractmethod
    def stressors(self) -> dict[str, Any]: ...

    def action(self) -> dict[str, Any]:
        return {"stressors": self.stressors()}


class NetworkExecutor(ChaosExecutor[P]):
    """Impairs all that the pods send (``direction`` is "to", since netem acts on egress)."""

    chaos = "NetworkChaos"
    by_container = False
    kind: ClassVar[Literal["delay", "loss", "bandwidth", "partition"]]

    def impairment(self) -> dict[str, Any]:
        """Return the part of the spec that is named after ``kind``."""
        return {}

    def action(self) -> dict[str, Any]:
        how = self.impairment()
        direction = "both" if self.kind == "partition" else "to"
        return {"action": self.kind, "direction": direction, "device": DEVICE, **({self.kind: how} if how else {})}

    def probe(self) -> Probe:
        return probes.scrape_duration(self.target)


class PodExecutor(ChaosExecutor[P]):
    """Ends pods or containers; their controller starts them again."""

    chaos = "PodChaos"
    spares_processes = False
    kind: ClassVar[Literal["pod-kill", "pod-failure", "container-kill"]]
    criterion = "fewer than a tenth left"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._wanted = 0

    @property
    def by_container(self) -> bool:  # type: ignore[override]  # computed here, a constant there
        return self.kind == "container-kill"

    def action(self) -> dict[str, Any]:
        return {"action": self.kind, **({"gracePeriod": 0} if self.kind == "pod-kill" else {})}

    def probe(self) -> Probe:
        self._wanted = len(self.target.pods())
        return probes.first_containers(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during < 0.1 * before

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return probes.ready_pods(self.target) >= max(1, self._wanted)
