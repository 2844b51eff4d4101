"""Service restart: the service ends in good order and starts again, as in an upgrade."""

from __future__ import annotations

import signal
from typing import Annotated, ClassVar

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import HealthyWithin
from tasks.inject.executors.kubernetes.restart import DrainParameters, PodRestart
from tasks.inject.executors.local.ending import EndProcesses


class Parameters(DrainParameters):
    drain_s: Annotated[
        float, Field(ge=0, le=600, description="time for requests under way to end before what is left is ended")
    ] = 5
    healthy_within_s: HealthyWithin = 120


class LocalServiceRestart(EndProcesses[Parameters]):
    """Sends SIGQUIT to the gateway's processes: NGINX closes its ports, ends the requests under way and exits, and the
    stack's supervisor starts it again a second later. (A replica would need more than a minute to load its engine, and
    Ray's head takes the replicas along.)"""

    roles = frozenset({"gateway"})

    def signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        return ((signal.SIGQUIT, self.parameters.drain_s), (signal.SIGTERM, 2), (signal.SIGKILL, 10))


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
