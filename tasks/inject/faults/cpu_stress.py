"""CPU stress: other work competes with the service for its CPU."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import probes as cluster_probes
from tasks.inject.executors.kubernetes.chaos_mesh import StressExecutor
from tasks.inject.executors.kubernetes.executor import limit_of
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.stress import start_stressor
from tasks.inject.executors.local.undo import EndProcesses, KillTracked, LocalStep
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES


class Parameters(FaultParameters):
    workers: Annotated[int, Field(ge=1, le=64, description="busy processes")] = 2
    load_percent: Annotated[int, Field(ge=1, le=100, description="share of a core that each worker asks for")] = 100


class LocalCpuStress(LocalExecutor[Parameters]):
    """Runs stress-ng in the service's cgroup, where it uses up the service's quota."""

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (KillTracked(tracker=self.tracker), EndProcesses(journal=self.journal))

    def apply(self, run_for_s: float) -> str:
        load = ["--cpu-load", str(self.parameters.load_percent)] if self.parameters.load_percent < 100 else []
        start_stressor(self.target, self.tracker, ["--cpu", str(self.parameters.workers), *load], run_for_s)
        return "cgroup: stress-ng"

    def probe(self) -> Probe:
        return probes.CpuDemand(self.target)

    @property
    def _rise_cores(self) -> float:
        return 0.5 * self.parameters.workers * self.parameters.load_percent / 100

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= self._rise_cores

    @property
    def criterion(self) -> str:
        return f"a rise of {self._rise_cores:.2g} cores"


class ChaosCpuStress(StressExecutor[Parameters]):
    """Runs workers in the container. They get what its CPU limit leaves; without one, what the node leaves."""

    defaults: ClassVar = {"workers": 16, "load_percent": 100}
    criterion = "a rise by half of what the workers ask for and the limit leaves, at least 0.1 cores"

    def stressors(self) -> dict[str, Any]:
        return {"cpu": {"workers": self.parameters.workers, "load": self.parameters.load_percent}}

    def probe(self) -> Probe:
        limits = [limit_of(pod, self.target.container, "cpu") for pod in self.target.pods()]
        self._limit_cores = min((limit for limit in limits if limit is not None), default=None)
        return cluster_probes.container_cpu(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        asked = self.parameters.workers * self.parameters.load_percent / 100
        room = asked if self._limit_cores is None else min(asked, self._limit_cores - before)
        return during - before >= max(0.5 * room, 0.1)


register(
    FaultKind(
        name="cpu-stress",
        summary="busy processes compete with the service for its CPU",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset(),
        probe="local: cores that the threads of the cgroup ran on or, runnable, waited for; "
        "cluster: CPU of the container",
        signals="CPU usage and throttling of the target; its latency per request",
        metrics=(metrics.CPU_USAGE, metrics.CPU_THROTTLED),
        executors={"local": LocalCpuStress, "kubernetes": ChaosCpuStress},
    )
)
