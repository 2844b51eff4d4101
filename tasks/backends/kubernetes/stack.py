"""The Kubernetes backend: a stack in a namespace of a cluster."""

from __future__ import annotations

from contextlib import ExitStack

from tasks.backends.base import LiveStack
from tasks.case import Limits, Service, Stack
from tasks.deploy.errors import DeployError, StackNotRunningError
from tasks.deploy.kubernetes import lifecycle
from tasks.deploy.kubernetes.access import open_forwards_of
from tasks.deploy.kubernetes.models import model_preset
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.runtime import KubernetesRuntime, ServiceRuntime
from tasks.export.base import TelemetrySources
from tasks.export.sources.placement import PodPlacement
from tasks.prometheus import PrometheusError, instant_value
from tasks.stack import GATEWAY, HEAD

STEADY_LATENCY_S = 5.0
OPEN_REQUESTS = (
    'sum(last_over_time({{__name__=~"(ray_)?vllm[_:]num_requests_(running|waiting)",namespace="{namespace}"}}[30s]))'
)
LAST_TELEMETRY_S = 10.0
"""Delay (s) of the last telemetry: engines send spans every 5 s, log collectors in batches."""


class KubernetesStack(LiveStack):
    def __init__(self, runtime: KubernetesRuntime, params: KubernetesDeployParams) -> None:
        self.runtime: KubernetesRuntime = runtime
        self._params = params
        self._forwards = ExitStack()

    def enter(self) -> None:
        """Open the port-forwards that this process needs; they end with it."""
        self._forwards = open_forwards_of(self.runtime)

    def unsteady(self) -> str | None:
        if not self.runtime.alive:
            raise StackNotRunningError(f"the stack in namespace {self.runtime.namespace} is gone")
        try:
            found = lifecycle.status(self._params, self.runtime.directory)
            if found.state != "ready":
                return found.detail
            open_requests = instant_value(
                self.runtime.prometheus_url, OPEN_REQUESTS.format(namespace=self.runtime.namespace)
            )
        except DeployError as error:
            return str(error)
        except PrometheusError as error:
            return str(error)
        if open_requests > 0:
            return f"{open_requests:g} requests still open"
        return self.slow_or_failing(self._params.replicas, STEADY_LATENCY_S)

    def describe(self) -> Stack:
        parallelism = self._params.parallelism
        return Stack(
            backend="kubernetes",
            model=model_preset(self._params.model).source,
            engine="vllm",
            parallelism={
                "data": self._params.replicas,
                "tensor": parallelism.tensor,
                "pipeline": parallelism.pipeline,
            },
            versions=self.runtime.versions,
            services=tuple(
                Service(
                    name=service.name,
                    role=service.role,
                    node=service.node,
                    address=service.address,
                    limits=self._limits(service),
                    devices=tuple(gpu for pod in service.pods for gpu in pod.gpus),
                )
                for service in self.runtime.services
            ),
        )

    def _limits(self, service: ServiceRuntime) -> Limits:
        """Return the limits summed over the pods of a service: a replica has one pod per pipeline stage."""
        resources = self._params.resources
        of_pod = {"gateway": resources.gateway, "head": resources.head}.get(service.role, resources.replica)
        pods = len(service.pods)
        engine = {**model_preset(self._params.model).engine, **self._params.engine_arguments}
        arguments = engine if service.role == "replica" else {}
        return Limits(
            cpu_cores=of_pod.cpu_cores * pods,
            memory_bytes=of_pod.memory_gb * 1e9 * pods,
            kv_cache_bytes=_positive(arguments.get("kv_cache_memory_bytes")),
            max_model_len=_positive(arguments.get("max_model_len")),
            max_num_seqs=_positive(arguments.get("max_num_seqs")),
        )

    def sources(self) -> TelemetrySources:
        """Return the telemetry sources. The gateway calls the replicas' pods; the head only controls these."""
        replicas = [service.name for service in self.runtime.services if service.role == "replica"]
        return TelemetrySources(
            prometheus_url=self.runtime.prometheus_url,
            loki_url=self.runtime.loki_url,
            spans_url=self.runtime.spans_url,
            deepflow_url=self.runtime.deepflow_url,
            calls=tuple((caller, replica) for caller in (GATEWAY, HEAD) for replica in replicas),
            settle_s=max(LAST_TELEMETRY_S, 2.0 * self._params.scrape_interval_s),
            namespace=self.runtime.namespace,
            pods=tuple(
                PodPlacement(
                    service=service.name, pod=pod.name, uid=pod.uid, node=pod.node, address=pod.ip, gpus=pod.gpus
                )
                for service in self.runtime.services
                for pod in service.pods
            ),
            gpus=self._params.accelerator.kind == "nvidia",
        )

    def addresses(self) -> str:
        return f"gateway {self.runtime.gateway_url}, prometheus {self.runtime.prometheus_url}"


def _positive(value: object) -> int | None:
    """Return a positive integer engine argument, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
