"""GPU power limit: the GPU may draw less power, and lowers its clocks to stay within the limit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.node_fault import LimitExecutor, LimitParameters
from tasks.inject.probe import Probe


class Parameters(LimitParameters):
    absolute = "watts"

    watts: Annotated[
        float | None, Field(gt=0, le=2000, description="power limit; raised to the lowest that the GPU allows")
    ] = 150
    fraction: Annotated[
        float | None, Field(gt=0, lt=1, description="instead of watts: share of the GPU's default power limit")
    ] = None


class GpuPowerLimit(LimitExecutor[Parameters]):
    action = "power-limit"
    criterion = "a fall by 10 %; a GPU that draws less than the limit anyway shows none"

    def probe(self) -> Probe:
        return gpu_probes.power_draw(self.target)


register(
    FaultKind(
        name="gpu-power-limit",
        summary="the power limit of the replica's GPUs is lowered; the node's agent restores it",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU management"}),
        probe="power draw of the GPU (DCGM), and the time of a decode step (vLLM)",
        signals="power, SM clock and power violation of the GPU; engine time, queue and inter-token latency",
        metrics=(
            metrics.GPU_POWER,
            metrics.GPU_POWER_LIMIT,
            metrics.GPU_POWER_VIOLATION,
            metrics.GPU_SM_CLOCK,
            metrics.INTER_TOKEN_LATENCY_MEAN,
        ),
        executors={"kubernetes": GpuPowerLimit},
        group="accelerator-throttle",
    )
)
