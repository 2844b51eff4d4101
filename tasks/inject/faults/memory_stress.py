"""Memory stress: other work holds and touches memory beside the service."""

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
from tasks.inject.executors.local.undo import EndProcesses, KillTracked, LiftMemoryLimit, LocalStep
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES

MACHINE_MARGIN_MB = 1024
ALARM_MARGIN_MB = 512
CONTAINER_HEADROOM_MB = 256
SMALLEST_STRESS_MB = 64


class Parameters(FaultParameters):
    size_mb: Annotated[int, Field(ge=16, le=1_048_576, description="memory held, in MiB, all workers together")] = 600
    workers: Annotated[int, Field(ge=1, le=16, description="processes that share the size")] = 1
    headroom_mb: Annotated[
        int | None,
        Field(
            ge=64,
            le=1_048_576,
            description="local: memory limit = usage before + size + this, MiB (null: none); cluster: left free (256)",
        ),
    ] = None


class LocalMemoryStress(LocalExecutor[Parameters]):
    """Runs stress-ng in the service's cgroup. The kernel's OOM killer takes its workers first."""

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (KillTracked(tracker=self.tracker), LiftMemoryLimit(), EndProcesses(journal=self.journal))

    def refusal(self) -> str | None:
        left_mb = available_mb() - self.parameters.size_mb
        if left_mb >= MACHINE_MARGIN_MB:
            return None
        return (
            f"{self.parameters.size_mb} MiB would leave {left_mb:.0f} MiB available on this machine, "
            f"less than {MACHINE_MARGIN_MB} MiB"
        )

    def apply(self, run_for_s: float) -> str:
        parameters = self.parameters
        if parameters.headroom_mb is not None:
            room = (parameters.size_mb + parameters.headroom_mb) * 2**20
            self.target.cgroup.set_memory_limit(self.target.cgroup.memory_usage() + room)
        size = ["--vm", str(parameters.workers), "--vm-bytes", f"{parameters.size_mb}M"]
        # filled once, then one pass over it a second: memory is held and warm without spending the CPU quota
        how = ["--vm-keep", "--vm-method", "zero-one", "--vm-hang", "1", "--oomable"]
        start_stressor(self.target, self.tracker, [*size, *how], run_for_s)
        return "cgroup: stress-ng"

    def alarm(self) -> str | None:
        left_mb = available_mb()
        return None if left_mb >= ALARM_MARGIN_MB else f"only {left_mb:.0f} MiB are available on this machine"

    def probe(self) -> Probe:
        return probes.memory_usage(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.7 * self.parameters.size_mb

    @property
    def criterion(self) -> str:
        return f"a rise of {0.7 * self.parameters.size_mb:.0f} MiB"


class ChaosMemoryStress(StressExecutor[Parameters]):
    """Refuses what the container's limit does not leave beside its working set and a headroom, or the kernel might end
    the service. The OOM killer takes the stressors first."""

    defaults: ClassVar = {"size_mb": 8192}

    size_mb: int = 0

    def refusal(self) -> str | None:
        limits = [limit_of(pod, self.target.container, "memory") for pod in self.target.pods()]
        limit = min((each for each in limits if each is not None), default=None)
        self.size_mb = self.parameters.size_mb
        if limit is None:
            return None
        headroom_mb = CONTAINER_HEADROOM_MB if self.parameters.headroom_mb is None else self.parameters.headroom_mb
        room_mb = limit / 2**20 - cluster_probes.working_set_mb(self.target) - headroom_mb
        self.size_mb = min(self.size_mb, int(room_mb))
        if self.size_mb >= SMALLEST_STRESS_MB:
            return None
        return f"the limit of {limit / 2**20:.0f} MiB leaves {max(0, room_mb):.0f} MiB beside the working set"

    def stressors(self) -> dict[str, Any]:
        return {
            "memory": {
                "workers": self.parameters.workers,
                "size": f"{self.size_mb}MB",
                "oomScoreAdj": 1000,
            }
        }

    def apply(self, run_for_s: float) -> str:
        executor = super().apply(run_for_s)
        return executor if self.size_mb == self.parameters.size_mb else f"{executor} ({self.size_mb} MiB fit)"

    def probe(self) -> Probe:
        return cluster_probes.container_memory(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.7 * self.size_mb

    @property
    def criterion(self) -> str:
        return f"a rise of {0.7 * self.size_mb:.0f} MiB"


def available_mb() -> float:
    """Return the memory available on the machine in MiB."""
    import psutil

    return float(psutil.virtual_memory().available / 2**20)


register(
    FaultKind(
        name="memory-stress",
        summary="memory is held and touched beside the service, in its cgroup",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"memory limit"}),
        probe="local: memory charged to the cgroup; cluster: working set of the container",
        signals="memory of the target; with a limit also reclaim and refaults",
        metrics=(metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS, metrics.MEMORY_LIMIT_HITS),
        executors={"local": LocalMemoryStress, "kubernetes": ChaosMemoryStress},
    )
)
