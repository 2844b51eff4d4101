"""Service restart: the service ends in good order and starts again, as in an upgrade."""

from __future__ import annotations

import signal
import time
from typing import Annotated, ClassVar

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.errors import FaultError
from tasks.inject.executor import HealthyWithin
from tasks.inject.executors.kubernetes.restart import DrainParameters, PodRestart
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep
from tasks.inject.probe import Probe
from tasks.system.process import ProcessId


class Parameters(DrainParameters):
    drain_s: Annotated[
        float, Field(ge=0, le=600, description="time for requests under way to end before what is left is ended")
    ] = 5
    healthy_within_s: HealthyWithin = 120


class LocalServiceRestart(LocalExecutor[Parameters]):
    """Sends SIGQUIT to the gateway's processes: NGINX closes its ports, ends the requests under way and exits, and the
    stack's supervisor starts it again a second later. (A replica would need more than a minute to load its engine, and
    Ray's head takes the replicas along.)"""

    roles = frozenset({"gateway"})
    spares_processes = False
    criterion = "fewer than a tenth left"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return ()

    def apply(self, run_for_s: float) -> str:
        leaving = [ProcessId.of(pid) for pid in self.target.processes()]
        if not leaving:
            raise FaultError(f"{self.target.name}: it has no process to restart")
        sent = []
        for number, patience_s in ((signal.SIGQUIT, self.parameters.drain_s), (signal.SIGTERM, 2), (signal.SIGKILL, 2)):
            for each in leaving:
                each.kill(number)
            sent.append(number.name)
            deadline = time.monotonic() + patience_s
            if all(each.wait_gone(max(0.0, deadline - time.monotonic())) for each in leaving):
                return f"signal: {', '.join(sent)}"
        raise FaultError(f"{self.target.name}: not every process ended")

    def probe(self) -> Probe:
        self._first = probes.FirstProcesses(self.target)
        return self._first

    def shows_effect(self, before: float, during: float) -> bool:
        return during < 0.1 * before

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return bool(self.target.processes()) and self._first.ports.are_back()


class ClusterServiceRestart(PodRestart[Parameters]):
    defaults: ClassVar = {"drain_s": 30, "healthy_within_s": 900}


register(
    FaultKind(
        name="service-restart",
        summary="the service ends in good order and is started again: benign, for disturbances",
        parameters=Parameters,
        roles=frozenset({"gateway", "replica"}),
        resources=frozenset({"processes"}),
        probe="local: share of the first processes that still run, back when its ports listen; "
        "cluster: the same of containers, back when its pods are ready",
        signals="a short gap in what the target serves, connections refused for about a second, younger processes",
        metrics=(metrics.PROCESSES, metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS),
        executors={"local": LocalServiceRestart, "kubernetes": ClusterServiceRestart},
    )
)
