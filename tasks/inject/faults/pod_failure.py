"""Pod failure: the pods of the service run but do nothing, and come back at the end."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import RestartParameters
from tasks.inject.executors.kubernetes.chaos_mesh import PodExecutor


class Parameters(RestartParameters):
    """The parameters common to kinds that end processes."""


class ChaosPodFailure(PodExecutor[Parameters]):
    kind = "pod-failure"


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
        group="process-kill",
    )
)
