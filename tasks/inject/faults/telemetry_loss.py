"""Telemetry loss: the service works, and Prometheus gets no sample of it."""

from __future__ import annotations

from tasks import metrics
from tasks.deploy.local.layout import NGINX_STATUS_PORT, RAY_METRICS_PORT
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.local import network, probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep, RestoreScrapes, withheld_file
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES

MIN_AGE_S = 3.0


class Parameters(FaultParameters):
    """It has no parameters."""


class LocalTelemetryLoss(LocalExecutor[Parameters]):
    """Hides the service's cgroup from the exporter, and drops what Prometheus sends to the port of its metrics. Nothing
    else uses that port, so the service and its traffic are untouched; its spans and logs go on."""

    criterion = f"a last sample three times as old as before, and {MIN_AGE_S:g} s"
    settle_s = 20.0

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreScrapes(),)

    def apply(self, run_for_s: float) -> str:
        withheld = withheld_file(self.target)
        if withheld is None:
            raise FaultError(f"{self.target.name}: the directory of its stack is not known")
        withheld.parent.mkdir(exist_ok=True)
        withheld.touch()
        gateway = self.target.service.role == "gateway"
        network.drop_from_fabric(self.target, NGINX_STATUS_PORT if gateway else RAY_METRICS_PORT)
        return "exporter: cgroup withheld; link: filter on the port of the metrics"

    def probe(self) -> Probe:
        return probes.LastSampleAge(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= max(MIN_AGE_S, 3 * before)


register(
    FaultKind(
        name="telemetry-loss",
        summary="Prometheus gets no metric of the service, which works as before; never a root, only a disturbance",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"scrapes"}),
        probe="age of the newest sample that Prometheus has of the service",
        signals="all metrics of the target stop at once; its spans, its logs and every other service stay normal",
        metrics=(metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET),
        executors={"local": LocalTelemetryLoss},
        root_allowed=False,
    )
)
