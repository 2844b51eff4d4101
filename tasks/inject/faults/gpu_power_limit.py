"""GPU power limit: the GPU may draw less power, and lowers its clocks to stay within the limit."""

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
    watts: Annotated[
        float | None, Field(gt=0, le=2000, description="power limit; raised to the lowest that the GPU allows")
    ] = 150
    fraction: Annotated[
        float | None, Field(gt=0, lt=1, description="instead of watts: share of the GPU's default power limit")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _fraction_in_place_of_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("fraction") is not None and "watts" not in given:
            return {**given, "watts": None}
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> Parameters:
        if (self.watts is None) == (self.fraction is None):
            raise ValueError("give either watts or fraction")
        return self


class GpuPowerLimit(NodeFaultExecutor[Parameters]):
    action = "power-limit"

    def amount(self) -> dict[str, float]:
        parameters = self.parameters
        return {"value": parameters.watts} if parameters.watts is not None else {"fraction": parameters.fraction or 0}

    def probe(self) -> Probe:
        return gpu_probes.power_draw(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during <= (1 - FALL) * before

    @property
    def criterion(self) -> str:
        return "a fall by 10 %; a GPU that draws less than the limit anyway shows none"


register(
    FaultKind(
        name="gpu-power-limit",
        summary="the power limit of the replica's GPUs is lowered; the node's agent restores it",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"GPU management"}),
        probe="power draw of the GPU (DCGM)",
        signals="power, SM clock and power violation of the GPU; engine time, queue and inter-token latency",
        metrics=(
            metrics.GPU_POWER,
            metrics.GPU_POWER_LIMIT,
            metrics.GPU_POWER_VIOLATION,
            metrics.GPU_SM_CLOCK,
            metrics.INTER_TOKEN_LATENCY_MEAN,
        ),
        executors={"kubernetes": GpuPowerLimit},
    )
)
