"""GPU contention: another process computes on the replica's GPU."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.contention import GpuPodExecutor
from tasks.inject.probe import Probe

CONTEXT_MB = 1200
"""GPU memory of the pod beside the allocated block: CUDA's context and the matrices."""
RISE_PERCENT = 10


class Parameters(FaultParameters):
    duty_percent: Annotated[
        int, Field(ge=5, le=100, description="share of the time that the other process computes")
    ] = 90


class GpuContention(GpuPodExecutor[Parameters]):
    def refusal(self) -> str | None:
        return no_room(gpu_probes.memory_free_mb(self.target), CONTEXT_MB)

    def burner_arguments(self) -> dict[str, Any]:
        return {"duty": self.parameters.duty_percent / 100}

    def probe(self) -> Probe:
        return gpu_probes.sm_activity(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= RISE_PERCENT

    @property
    def criterion(self) -> str:
        return f"a rise of {RISE_PERCENT} %; a GPU that is full already shows none"


def no_room(free_mb: float, needed_mb: float) -> str | None:
    """Return why a pod that needs ``needed_mb`` of GPU memory cannot run; None if it can."""
    if free_mb >= needed_mb:
        return None
    return (
        f"{free_mb:.0f} MiB are free on the GPU, {needed_mb:.0f} MiB are needed: lower gpu_memory_utilization in "
        "deploy.engine_arguments"
    )


register(
    FaultKind(
        name="gpu-contention",
        summary="a pod on the same GPU multiplies matrices",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU's SMs"}),
        probe="SM activity of the GPU (DCGM), or its utilisation where the GPU has no profiling counters",
        signals="SM activity, utilisation and power of the GPU; engine time and inter-token latency of the target",
        metrics=(
            metrics.GPU_SM_ACTIVE,
            metrics.ACCELERATOR_UTILIZATION,
            metrics.GPU_POWER,
            metrics.INTER_TOKEN_LATENCY_MEAN,
        ),
        executors={"kubernetes": GpuContention},
    )
)
