"""Pod failure: the pods of the service run but do nothing, and come back at the end."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.chaos_mesh import PodExecutor


class Parameters(FaultParameters):
    healthy_within_s: Annotated[float, Field(gt=0, le=3600, description="time for it to be back after the window")] = (
        900
    )


class ChaosPodFailure(PodExecutor[Parameters]):
    kind = "pod-failure"

    @property
    def settle_s(self) -> float:  # type: ignore[override]  # computed here, a constant there
        return self.parameters.healthy_within_s


register(
    FaultKind(
        name="pod-failure",
        summary="the containers of the service's pods run an image that does nothing until the end",
        parameters=Parameters,
        roles=frozenset({"gateway", "replica"}),
        resources=frozenset({"processes"}),
        probe="share of the first containers that still run; the service is back when as many pods are ready",
        signals="requests to the target fail, it is not ready, its samples are missing; it restarts twice",
        metrics=(metrics.PROCESSES, metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS),
        executors={"kubernetes": ChaosPodFailure},
    )
)
