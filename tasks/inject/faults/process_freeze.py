"""Freeze: the processes of the service are stopped, and resume at the end."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.engine import EnginePause
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.stop import stop_processes
from tasks.inject.executors.local.undo import LocalStep, ResumeProcesses
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES


class Parameters(FaultParameters):
    """It has no parameters."""


class LocalProcessFreeze(LocalExecutor[Parameters]):
    """Sends SIGSTOP to every process of the cgroup."""

    criterion = "at least 90 % stopped"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (ResumeProcesses(),)

    def apply(self, run_for_s: float) -> str:
        stop_processes(self.target, self.target.processes)
        return "signal: SIGSTOP"

    def probe(self) -> Probe:
        return probes.stopped_share("stopped processes of the service", self.target.processes)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= 90 and before <= 10


register(
    FaultKind(
        name="process-freeze",
        summary="the processes of the service are stopped, and go on afterwards",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"processes"}),
        probe="local: share of the processes that are stopped; cluster: tokens generated per second (vLLM)",
        signals="the target completes nothing, its CPU is at zero; its samples are missing (local) or go on (cluster)",
        metrics=(metrics.CPU_USAGE, metrics.LATENCY_P50, metrics.LATENCY_P90),
        executors={"local": LocalProcessFreeze, "kubernetes": EnginePause},
    )
)
