"""Kill: the processes of the service die at once and are started again by the stack's supervisor or the kubelet."""

from __future__ import annotations

import signal
from typing import ClassVar

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import HealthyWithin, RestartParameters
from tasks.inject.executors.kubernetes.chaos_mesh import PodExecutor
from tasks.inject.executors.local.ending import EndProcesses


class Parameters(RestartParameters):
    healthy_within_s: HealthyWithin = 120


class LocalProcessKill(EndProcesses[Parameters]):
    def signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        return ((signal.SIGKILL, 10),)


class ChaosContainerKill(PodExecutor[Parameters]):
    """Kills the container; the kubelet starts it again in the same pod."""

    defaults: ClassVar = {"healthy_within_s": 900}

    kind = "container-kill"


register(
    FaultKind(
        name="process-kill",
        summary="the processes of the service are killed; the stack's supervisor starts them again",
        parameters=Parameters,
        roles=frozenset({"gateway", "replica"}),
        resources=frozenset({"processes"}),
        probe="local: share of the first processes that still run, back when its ports listen; "
        "cluster: the same of containers, back when its pods are ready",
        signals="broken streams and errors, restart in the logs, a gap in the target's samples",
        metrics=(metrics.PROCESSES, metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS),
        executors={"local": LocalProcessKill, "kubernetes": ChaosContainerKill},
    )
)
