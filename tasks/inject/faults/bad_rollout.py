"""Bad rollout: the service runs a new version, which is slower."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters


class Parameters(FaultParameters):
    step_factor: Annotated[
        float, Field(gt=1, le=100, description="a step of the new version's engine takes so many times as long")
    ] = 3


register(
    FaultKind(
        name="bad-rollout",
        summary="a rollout has ended: the engine of the new version is slower, whatever else is done",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"version"}),
        probe="mean inter-token latency of the target",
        signals="longer steps of the target at the same clocks, CPU and links; a line in the head's log at its begin",
        metrics=(metrics.INTER_TOKEN_LATENCY_MEAN, metrics.DECODE_TIME_MEAN, metrics.LATENCY_P90),
        executors={},
    )
)
