"""GPU memory: another process holds memory of the replica's GPU."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.contention import GpuPodExecutor
from tasks.inject.faults.gpu_contention import no_room
from tasks.inject.probe import Probe

CONTEXT_MB = 600


class Parameters(FaultParameters):
    size_mb: Annotated[int, Field(ge=64, le=1_048_576, description="memory held on each GPU, in MiB")] = 4096


class GpuMemory(GpuPodExecutor[Parameters]):
    def refusal(self) -> str | None:
        return no_room(gpu_probes.memory_free_mb(self.target), self.parameters.size_mb + CONTEXT_MB)

    def burner_arguments(self) -> dict[str, Any]:
        return {"hold-mib": self.parameters.size_mb}

    def probe(self) -> Probe:
        return gpu_probes.memory_used(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.7 * self.parameters.size_mb

    @property
    def criterion(self) -> str:
        return f"a rise of {0.7 * self.parameters.size_mb:.0f} MiB"


register(
    FaultKind(
        name="gpu-memory",
        summary="a pod on the same GPU holds memory",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU memory"}),
        probe="memory used on the GPU (DCGM)",
        signals="memory of the GPU; the engine keeps what it reserved at its start, so little else",
        metrics=(metrics.GPU_MEMORY_USED,),
        executors={"kubernetes": GpuMemory},
    )
)
