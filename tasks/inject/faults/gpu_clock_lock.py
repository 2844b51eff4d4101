"""GPU clock lock: the SM clock of the GPU cannot exceed a limit."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.node_fault import NodeFaultExecutor
from tasks.inject.probe import Probe

FALL = 0.1


class Parameters(FaultParameters):
    mhz: Annotated[float | None, Field(gt=0, le=5000, description="highest SM clock; raised to 210 MHz")] = None
    fraction: Annotated[
        float | None, Field(gt=0, lt=1, description="instead of mhz: share of the GPU's highest SM clock")
    ] = 0.4

    @model_validator(mode="before")
    @classmethod
    def _mhz_in_place_of_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("mhz") is not None and "fraction" not in given:
            return {**given, "fraction": None}
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> Parameters:
        if (self.mhz is None) == (self.fraction is None):
            raise ValueError("give either mhz or fraction")
        return self


class GpuClockLock(NodeFaultExecutor[Parameters]):
    action = "clock-lock"

    def amount(self) -> dict[str, float]:
        parameters = self.parameters
        return {"value": parameters.mhz} if parameters.mhz is not None else {"fraction": parameters.fraction or 0}

    def probe(self) -> Probe:
        return gpu_probes.sm_clock(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during <= (1 - FALL) * before

    @property
    def criterion(self) -> str:
        return "a fall by 10 %; an idle GPU with low clocks shows none"


register(
    FaultKind(
        name="gpu-clock-lock",
        summary="the SM clock of the replica's GPUs is locked low; the node's agent unlocks it",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU management"}),
        probe="SM clock of the GPU (DCGM)",
        signals="SM clock and power of the GPU; engine time, inter-token latency and queue of the target",
        metrics=(metrics.GPU_SM_CLOCK, metrics.GPU_POWER, metrics.INTER_TOKEN_LATENCY_MEAN),
        executors={"kubernetes": GpuClockLock},
    )
)
