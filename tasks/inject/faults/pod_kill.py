"""Pod kill: the pods of the service are deleted at once, and their controller creates new ones."""

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


class ChaosPodKill(PodExecutor[Parameters]):
    kind = "pod-kill"

    @property
    def settle_s(self) -> float:  # type: ignore[override]  # computed here, a constant there
        return self.parameters.healthy_within_s


register(
    FaultKind(
        name="pod-kill",
        summary="the pods of the service are deleted at once; their owner makes new ones",
        parameters=Parameters,
        roles=frozenset({"gateway", "replica"}),
        resources=frozenset({"processes"}),
        probe="share of the first containers that still run; the service is back when as many pods are ready",
        signals="broken streams and errors, a new pod (name, address, perhaps node), a gap in the target's samples",
        metrics=(metrics.PROCESSES, metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS),
        executors={"kubernetes": ChaosPodKill},
    )
)
