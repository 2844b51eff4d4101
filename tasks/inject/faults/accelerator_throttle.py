"""Accelerator throttle: the engine computes more slowly."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import QUOTA_TOLERANCE_CORES, LocalStep, RestoreQuota
from tasks.inject.probe import Outcome, Probe


class Parameters(FaultParameters):
    fraction: Annotated[float, Field(ge=0.02, le=0.95, description="share of the normal computing capacity left")] = (
        0.15
    )


class LocalAcceleratorThrottle(LocalExecutor[Parameters]):
    """Lowers the CPU quota of the engine's cgroup, since the local engine computes on the CPU.

    As with the power limit of a GPU, utilisation stays high and speed falls; unlike there, the replica's other work
    slows down, too.
    """

    criterion = "a rise of 0.05 s/s and 30 %"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreQuota(cores=self.target.service.cpu_cores),)

    def apply(self, run_for_s: float) -> str:
        cores = self.parameters.fraction * (self.target.service.cpu_cores or os.cpu_count() or 1)
        self.target.cgroup.set_cpu_cores(cores)
        now = self.target.cgroup.cpu_cores()
        if now is None or abs(now - cores) > max(QUOTA_TOLERANCE_CORES, 0.01 - cores):
            raise FaultError(f"{self.target.name}: the CPU quota reads {now} cores after it was set to {cores:g}")
        return "cgroup: CPU quota in place of an accelerator power limit"

    def probe(self) -> Probe:
        return probes.cpu_throttling(self.target)

    def outcome(self) -> Outcome:
        return probes.SpanStepTime(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= before + 0.05 and during >= 1.3 * before


register(
    FaultKind(
        name="accelerator-throttle",
        summary="the engine's computing capacity is cut (CPU quota: the local stand-in for a GPU power limit)",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"CPU quota"}),
        probe="seconds per second that the service waited because its quota was spent, and the time of a decode step",
        signals="engine time per request, inter-token latency and queue of the target; its utilisation stays high",
        metrics=(metrics.ACCELERATOR_UTILIZATION, metrics.CPU_THROTTLED, metrics.INTER_TOKEN_LATENCY_MEAN),
        executors={"local": LocalAcceleratorThrottle},
    )
)
