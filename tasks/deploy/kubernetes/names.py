"""Names and ports shared by manifests, charts and their clients."""

from __future__ import annotations

from dataclasses import dataclass

RAY_SERVICE = "rcarena"
"""Name of the RayService; KubeRay names the cluster and its services after it."""
SERVE_SERVICE = "ray-serve"
"""Our Service in front of Ray Serve's proxies: it resolves before the application is up."""
SERVE_LABEL = "rcarena.io/serve"
SERVE_PORT = 8000
DASHBOARD_PORT = 8265
RAY_METRICS_PORT = 8080
GATEWAY_PORT = 8080
GATEWAY_STATUS_PORT = 8081
OTLP_PORT = 4317
SPANS_PORT = 8088
WAYPOINT = "waypoint"
HBONE_PORT = 15008
ENVOY_METRICS_PORT = 15020

WORKSPACE_CLAIM = "workspace"
MODELS_DIRECTORY = "/models"
SERVE_CODE_DIRECTORY = "/etc/rcarena/serve"
SERVE_CODE_MAP = "serve-code"
TRACING_MODULE = "rcarena_tracing"
ROUTING_MODULE = "rcarena_routing"
EJECTED_DIRECTORY = "/etc/rcarena/ejected"
EJECTED_MAP = "ejected"
"""ConfigMap with a key per ejected replica: its address, as ``ejected_key`` writes it."""

NODE_MARKER = "replica_node"
"""Ray resource that exactly the pods of replicas have."""
ENGINE_SLOT = "engine_slot"
"""Ray resource: one per accelerator of a pod, or one per pod without accelerators."""

TASK_ACCOUNTS = ("deploy", "load", "inject", "export", "score", "record")
"""One ServiceAccount per task; ``task_account`` is its name."""

TELEMETRY_NAMESPACE = "rcarena-telemetry"
ISTIO_NAMESPACE = "istio-system"
KUBERAY_NAMESPACE = "kuberay-system"
CHAOS_NAMESPACE = "chaos-mesh"
GPU_OPERATOR_NAMESPACE = "gpu-operator"
DEEPFLOW_NAMESPACE = "deepflow"
FOREIGN_NAMESPACES = (
    TELEMETRY_NAMESPACE,
    ISTIO_NAMESPACE,
    KUBERAY_NAMESPACE,
    CHAOS_NAMESPACE,
    GPU_OPERATOR_NAMESPACE,
    DEEPFLOW_NAMESPACE,
    "default",
)
"""Namespaces in use by others, which a stack may not take."""


@dataclass(frozen=True)
class ServiceAddress:
    """A Service and its port."""

    namespace: str
    name: str
    port: int

    @property
    def host(self) -> str:
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    @property
    def url(self) -> str:
        """URL inside the cluster."""
        return f"http://{self.host}:{self.port}"


PROMETHEUS = ServiceAddress(TELEMETRY_NAMESPACE, "prometheus-prometheus", 9090)
LOKI = ServiceAddress(TELEMETRY_NAMESPACE, "loki", 3100)
GRAFANA = ServiceAddress(TELEMETRY_NAMESPACE, "grafana", 80)
OTEL_COLLECTOR = ServiceAddress(TELEMETRY_NAMESPACE, "otel-collector", OTLP_PORT)
SPANS = ServiceAddress(TELEMETRY_NAMESPACE, "otel-collector", SPANS_PORT)
"""The collector's files over HTTP: ``/`` lists them as JSON (name, size, mtime). Each is OTLP JSON, one export request
per line; byte ranges are supported. ``spans.jsonl`` grows; rotated files have their end time (UTC) in the name."""
DEEPFLOW = ServiceAddress(DEEPFLOW_NAMESPACE, "deepflow-server", 20416)


def task_account(task: str) -> str:
    return f"rcarena-{task}"


def ejected_key(address: str) -> str:
    """Return the key of a pod's address: an IPv6 address has characters that a key must not have."""
    return address.replace(":", "-")
