"""The local backend: real processes in namespaces and cgroups of this machine."""

from __future__ import annotations

import logging

from tasks.backends.base import LiveStack
from tasks.case import Limits, Service, Stack
from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.local.layout import Layout
from tasks.deploy.local.namespaces import join_network
from tasks.deploy.local.params import LocalDeployParams
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.export.base import TelemetrySources
from tasks.prometheus import PrometheusError, instant_labels, instant_value
from tasks.stack import GATEWAY, HEAD
from tasks.system.process import age_s

log = logging.getLogger(__name__)

STEADY_LATENCY_S = 2.0
DOES_NOT_ANSWER = 'up{job="ray"} == 0'
"""Prometheus fetches the metrics of each service of Ray; its scrapes are a health check from outside."""
CPU_OF_REPLICAS = 'sum(rate(container_cpu_usage_seconds_total{service=~"ray-replicas-.*"}[15s]))'
HEALTH_MEMORY_S = 15
HEALTHY_REPLICAS = f"count(last_over_time(ray_serve_deployment_replica_healthy[{HEALTH_MEMORY_S}s]) == 1)"
"""It counts a replica for so long after its end."""
OPEN_REQUESTS = 'sum({__name__=~"ray_vllm_num_requests_(running|waiting)"})'
"""Ray exports a gauge only while it is being set: an idle engine has none, hence 0."""


class LocalStack(LiveStack):
    def __init__(self, runtime: StackRuntime, params: LocalDeployParams) -> None:
        self.runtime: StackRuntime = runtime
        self._params = params

    def enter(self) -> None:
        """Move the calling thread into the stack's network."""
        join_network(self.runtime.supervisor.pid)

    def unsteady(self) -> str | None:
        if not self.runtime.alive:
            raise StackNotRunningError("the stack has died")
        if new := self._just_started():
            return new
        try:
            replicas = instant_value(self.runtime.prometheus_url, HEALTHY_REPLICAS)
            open_requests = instant_value(self.runtime.prometheus_url, OPEN_REQUESTS)
        except PrometheusError as error:
            return str(error)
        if replicas < self._params.replicas:
            return f"{replicas:g} of {self._params.replicas} replicas are healthy"
        if open_requests > 0:
            return f"{open_requests:g} requests still open"
        return self.slow_or_failing(self._params.replicas, STEADY_LATENCY_S)

    def _just_started(self) -> str | None:
        """Return which replica has no process, or none as old as what Serve's health is remembered for."""
        for service in self.runtime.services:
            if service.role != "replica":
                continue
            ages = [age for pid in service.cgroup.pids() if (age := age_s(pid)) is not None]
            if not ages:
                return f"{service.name} has no process"
            if max(ages) < HEALTH_MEMORY_S:
                return f"{service.name} was started {max(ages):.0f} s ago"
        return None

    def unresponsive(self) -> list[str]:
        try:
            return instant_labels(self.runtime.prometheus_url, DOES_NOT_ANSWER, "service")
        except PrometheusError as error:
            log.warning("%s", error)
            return []

    def load_share(self) -> float | None:
        """Return the share of their CPU quota that the replicas use, since they compute on the CPU."""
        quotas = [each.cpu_cores for each in self.runtime.services if each.role == "replica"]
        known = [cores for cores in quotas if cores]
        try:
            used = instant_value(self.runtime.prometheus_url, CPU_OF_REPLICAS)
        except PrometheusError as error:
            log.warning("%s", error)
            return None
        return used / sum(known) if used > 0 and len(known) == len(quotas) else None

    def describe(self) -> Stack:
        model = self._params.model
        return Stack(
            backend="local",
            model=f"{model.architecture} (toy: {model.layers} layers, hidden size {model.hidden_size}, random weights)",
            engine="vllm",
            parallelism={"data": self._params.replicas, "tensor": 1, "pipeline": 1},
            versions=self.runtime.versions,
            services=tuple(
                Service(
                    name=service.name,
                    role=service.role,
                    node="local",
                    address=service.address,
                    limits=self._limits(service),
                )
                for service in self.runtime.services
            ),
        )

    def _limits(self, service: ServiceRuntime) -> Limits:
        """Return the CPU quota of the service's cgroup; only faults limit memory."""
        if service.role != "replica":
            return Limits(cpu_cores=service.cpu_cores)
        model = self._params.model
        return Limits(
            cpu_cores=service.cpu_cores,
            kv_cache_bytes=model.kv_cache_mb * 2**20,
            max_model_len=model.max_model_len,
            max_num_seqs=model.max_num_seqs,
        )

    def sources(self) -> TelemetrySources:
        layout = Layout(self._params, self.runtime.directory)
        return TelemetrySources(
            prometheus_url=self.runtime.prometheus_url,
            otlp_file=layout.otlp_file,
            nginx_access_log=layout.access_log,
            log_dirs=layout.log_directories(),
            calls=((GATEWAY, HEAD), *((HEAD, replica) for replica in layout.replicas)),
        )

    def addresses(self) -> str:
        urls = f"gateway {self.runtime.gateway_url}, prometheus {self.runtime.prometheus_url}"
        return f"{urls} (inside: rcarena deploy exec)"
