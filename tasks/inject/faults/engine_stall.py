"""Engine stall: the engine computes nothing while the replica answers as if it were healthy."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.engine import EnginePause
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.stop import stop_processes
from tasks.inject.executors.local.undo import LocalStep, ResumeProcesses
from tasks.inject.probe import Probe


class Parameters(FaultParameters):
    """It has no parameters."""


class LocalEngineStall(LocalExecutor[Parameters]):
    """Sends SIGSTOP to the process in which vLLM's engine computes. Ray's worker with the HTTP application goes on: it
    accepts requests and answers ``/health``, since that asks only whether the engine's process has ended."""

    criterion = "at least 90 % stopped"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (ResumeProcesses(),)

    def apply(self, run_for_s: float) -> str:
        if not self.target.engine_processes():
            raise FaultError(f"{self.target.name}: no engine runs in a process of its own")
        stop_processes(self.target, self.target.engine_processes)
        return "signal: SIGSTOP to the engine"

    def probe(self) -> Probe:
        return probes.stopped_share("stopped processes of the engine", self.target.engine_processes)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= 90 and before <= 10


register(
    FaultKind(
        name="engine-stall",
        summary="the engine computes nothing; the replica lives on, healthy, and accepts requests",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"processes"}),
        probe="local: share of the engine's processes that are stopped; cluster: tokens generated per second (vLLM)",
        signals="no token, CPU or GPU use near zero, requests pile up as running or waiting; scrapes and health go on",
        metrics=(
            metrics.GENERATION_TOKENS_RATE,
            metrics.CPU_USAGE,
            metrics.ACCELERATOR_UTILIZATION,
            metrics.SERVE_ONGOING_REQUESTS,
            metrics.LATENCY_P50,
            metrics.LATENCY_P90,
        ),
        executors={"local": LocalEngineStall, "kubernetes": EnginePause},
    )
)
