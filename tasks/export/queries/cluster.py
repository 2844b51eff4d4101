"""PromQL for the exporters of a cluster: cAdvisor, kube-state-metrics, DCGM, Ray's node agent, Istio.

Sums cover named containers only, not the pod's or its ancestors' cgroups, nor the pause container. The largest of
several series of one container counts, so that a kubelet scraped twice does not double a value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.export.queries.promql import (
    Accelerator,
    Combine,
    Variant,
)
from tasks.export.queries.ray import late_counter_rate
from tasks.export.sources.placement import PEER_LABELS
from tasks.metrics import GATEWAY, HEAD, REPLICA, Source
from tasks.stack import Role

POD = "pod, service"
"""``service`` is set by some monitors; it identifies the service of unknown pods."""
CONTAINER = f"{POD}, container"
CONTAINERS = '{$scope,container!="",container!="POD"}'
INTERFACES = '{$scope,pod!="",interface!="lo"}'
MIB = 2.0**20
GPU_LABELS = "UUID, exported_namespace, exported_pod, namespace, pod, service"
"""The pod's labels come from dcgm-exporter, from Prometheus (``exported_*``), or are missing; UUID is always set."""

CALLEE_LABELS = ", ".join(f"destination_{end}" for end in ("workload_namespace", *PEER_LABELS))
WAYPOINT = '{reporter="waypoint"}'
FAILED = '{reporter="waypoint",response_code=~"5..|0"}'
"""Response code 0: the connection broke before an answer."""

RAY_NODES = HEAD | REPLICA


def _pod(source: Source, promql: str, combine: Combine = "sum", **keywords: object) -> Variant:
    shared: dict[str, Any] = {"join": "pod", "combine": combine, **keywords}
    return Variant(source, promql, **shared)


def container_rate(series: str) -> Variant:
    return _pod("cadvisor", f"sum by ({POD}) (max by ({CONTAINER}) (rate({series}{CONTAINERS}[$window])))")


def container_gauge(series: str) -> Variant:
    return _pod("cadvisor", f"sum by ({POD}) (max by ({CONTAINER}) ({series}{CONTAINERS}))")


def network_rate(*series: str) -> Variant:
    parts = [f"sum by ({POD}) (max by ({POD}, interface) (rate({name}{INTERFACES}[$window])))" for name in series]
    return _pod("cadvisor", " + ".join(parts))


def quota_use() -> Variant:
    """Return the accelerator utilisation on clusters without GPUs: CPU use relative to the engine pod's limit."""
    used = container_rate("container_cpu_usage_seconds_total").promql
    return _pod("cadvisor", used, roles=REPLICA, divisor=kube_limit("cpu").promql, accelerator="none")


def kube_limit(resource: str) -> Variant:
    series = f'kube_pod_container_resource_limits{{$scope,resource="{resource}"}}'
    return _pod("kube_state", f"sum by ({POD}) (max by ({CONTAINER}) ({series}))")


def kube_restarts() -> Variant:
    series = "kube_pod_container_status_restarts_total{$scope}"
    return _pod("kube_state", f"sum by ({POD}) (max by ({CONTAINER}) (rate({series}[$window])))")


def kube_pods(series: str, condition: str) -> Variant:
    return _pod("kube_state", f"max by ({POD}) ({series}{{$scope,{condition}}})")


def ray_node(
    promql: str,
    combine: Combine = "sum",
    scale: float = 1.0,
    roles: frozenset[Role] = RAY_NODES,
    accelerator: Accelerator = "any",
) -> Variant:
    """Return a query of Ray's agent in each pod."""
    return _pod("ray_node", promql, combine, roles=roles, scale=scale, accelerator=accelerator)


def dcgm_gauge(field: str, combine: Combine, scale: float = 1.0, matchers: str = "") -> Variant:
    return _dcgm(f"max by ({GPU_LABELS}) ({field}{{{matchers}}})", combine, scale)


def dcgm_sum(field: str, matchers: str = "") -> Variant:
    """Return a query summed over the labels of one GPU."""
    return _dcgm(f"sum by ({GPU_LABELS}) ({field}{{{matchers}}})", "sum", 1.0)


def dcgm_rate(field: str, combine: Combine, scale: float = 1.0) -> Variant:
    return _dcgm(f"max by ({GPU_LABELS}) (rate({field}{{}}[$window]))", combine, scale)


def _dcgm(promql: str, combine: Combine, scale: float) -> Variant:
    return Variant("dcgm", promql, REPLICA, join="gpu", combine=combine, scale=scale, accelerator="gpu")


def waypoint_quantile(quantile: float) -> tuple[Variant, ...]:
    """Return queries for the latency of calls into a service, measured by its waypoint."""
    series = f"istio_request_duration_milliseconds_bucket{WAYPOINT}"
    return _istio(f"sum by (le, {CALLEE_LABELS}) (rate({series}[$window]))", quantile, 1e-3)


def waypoint_requests() -> tuple[Variant, ...]:
    return _istio(f"sum by ({CALLEE_LABELS}) (rate(istio_requests_total{WAYPOINT}[$window]))")


def waypoint_errors() -> tuple[Variant, ...]:
    """Return queries for server errors and broken connections; 0 where all requests succeed."""
    everything = f"sum by ({CALLEE_LABELS}) (istio_requests_total{WAYPOINT}"
    promql = late_counter_rate(
        f"istio_requests_total{FAILED}", f"0 * {everything})", f"0 * {everything} offset $window)"
    )
    return _istio(promql.replace("$by", CALLEE_LABELS))


def _istio(promql: str, quantile: float | None = None, scale: float = 1.0) -> tuple[Variant, ...]:
    """Return the query for gateway and replicas, and optionally the head, which serves no requests in a cluster."""
    required = Variant("istio", promql, GATEWAY | REPLICA, join="callee", quantile=quantile, scale=scale)
    return required, replace(required, roles=HEAD, optional=True)
