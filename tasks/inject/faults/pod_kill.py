"""Pod kill: the pods of the service are deleted at once, and their controller creates new ones."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import RestartParameters
from tasks.inject.executors.kubernetes.chaos_mesh import PodExecutor


class Parameters(RestartParameters):
    """The parameters common to kinds that end processes."""


class ChaosPodKill(PodExecutor[Parameters]):
    kind = "pod-kill"


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
        group="process-kill",
    )
)
