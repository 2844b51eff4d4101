"""Kill: the processes of the service die at once and are started again by the stack's supervisor or the kubelet."""

from __future__ import annotations

import signal
from typing import ClassVar

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.errors import FaultError
from tasks.inject.executor import HealthyWithin, RestartParameters
from tasks.inject.executors.kubernetes.chaos_mesh import PodExecutor
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep
from tasks.inject.probe import Probe
from tasks.system.process import ProcessId


class Parameters(RestartParameters):
    healthy_within_s: HealthyWithin = 120


class LocalProcessKill(LocalExecutor[Parameters]):
    spares_processes = False
    criterion = "fewer than a tenth left"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return ()

    def apply(self, run_for_s: float) -> str:
        victims = [ProcessId.of(pid) for pid in self.target.processes()]
        if not victims:
            raise FaultError(f"{self.target.name}: it has no process to kill")
        for victim in victims:
            victim.kill(signal.SIGKILL)
        if not all(victim.wait_gone(2) for victim in victims):
            raise FaultError(f"{self.target.name}: not every process died")
        return "signal: SIGKILL"

    def probe(self) -> Probe:
        self._first = probes.FirstProcesses(self.target)
        return self._first

    def shows_effect(self, before: float, during: float) -> bool:
        return during < 0.1 * before

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return bool(self.target.processes()) and self._first.ports.are_back()


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
