"""GPU clock lock: the SM clock of the GPU cannot exceed a limit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.node_fault import LimitExecutor, LimitParameters
from tasks.inject.probe import Probe


class Parameters(LimitParameters):
    absolute = "mhz"

    mhz: Annotated[float | None, Field(gt=0, le=5000, description="highest SM clock; raised to 210 MHz")] = None
    fraction: Annotated[
        float | None, Field(gt=0, lt=1, description="instead of mhz: share of the GPU's highest SM clock")
    ] = 0.4


class GpuClockLock(LimitExecutor[Parameters]):
    action = "clock-lock"
    criterion = "a fall by 10 %; an idle GPU with low clocks shows none"

    def probe(self) -> Probe:
        return gpu_probes.sm_clock(self.target)


register(
    FaultKind(
        name="gpu-clock-lock",
        summary="the SM clock of the replica's GPUs is locked low; the node's agent unlocks it",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU management"}),
        probe="SM clock of the GPU (DCGM), and the time of a decode step (vLLM)",
        signals="SM clock and power of the GPU; engine time, inter-token latency and queue of the target",
        metrics=(metrics.GPU_SM_CLOCK, metrics.GPU_POWER, metrics.INTER_TOKEN_LATENCY_MEAN),
        executors={"kubernetes": GpuClockLock},
        group="accelerator-throttle",
    )
)
