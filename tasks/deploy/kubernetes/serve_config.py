"""Builds ``serveConfigV2`` of the RayService: Ray Serve applications, their engines and placement.

With one pod per replica there is one application, and Ray's router chooses the replica. With pipeline stages a replica
is several pods, and one application would mix the pods of different replicas: each replica is then an application,
pinned to its pods, and the gateway chooses.
"""

from __future__ import annotations

from typing import Any

from tasks.deploy.kubernetes.models import ModelPreset, model_preset
from tasks.deploy.kubernetes.names import (
    EJECTED_DIRECTORY,
    ENGINE_SLOT,
    NODE_MARKER,
    ROUTING_MODULE,
    SERVE_PORT,
)
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.stack import REPLICA_PREFIX

APPLICATION = "llm"
IMPORT_PATH = "ray.serve.llm:build_openai_app"
MARK = 0.001
"""Amount of a replica's Ray resource that pins an application to its pods without using it up."""

EJECTING = {
    "request_router_class": f"{ROUTING_MODULE}.EjectingRouter",
    "request_router_kwargs": {"ejected": EJECTED_DIRECTORY},
}
"""The router that passes over ejected replicas. An application of one replica has none to choose from."""

MANAGED_ENGINE_ARGUMENTS = frozenset(
    {
        "model",
        "served_model_name",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "distributed_executor_backend",
        "otlp_traces_endpoint",
        "disable_log_stats",
    }
)
"""Engine arguments derived from other parameters."""


def replica_names(params: KubernetesDeployParams) -> tuple[str, ...]:
    return tuple(f"{REPLICA_PREFIX}{i}" for i in range(params.replicas))


def route_prefixes(params: KubernetesDeployParams) -> tuple[str, ...]:
    """Return the applications' route prefixes: ``/``, or one per replica."""
    return tuple(f"/{name}" for name in replica_names(params)) if params.parallelism.pipeline > 1 else ("/",)


def serve_config(params: KubernetesDeployParams) -> dict[str, Any]:
    """Return the document for ``serveConfigV2``."""
    preset = model_preset(params.model)
    if params.parallelism.pipeline > 1:
        applications = [
            _application(params, preset, name, f"/{name}", 1, pinned_to=name) for name in replica_names(params)
        ]
    else:
        applications = [_application(params, preset, APPLICATION, "/", params.replicas)]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT, "request_timeout_s": 600},
        "applications": applications,
    }


def _application(
    params: KubernetesDeployParams,
    preset: ModelPreset,
    name: str,
    route_prefix: str,
    replicas: int,
    pinned_to: str | None = None,
) -> dict[str, Any]:
    pods = replicas * params.parallelism.pipeline
    return {
        "name": name,
        "import_path": IMPORT_PATH,
        "route_prefix": route_prefix,
        "args": {
            "llm_configs": [_engine(params, preset, replicas, pinned_to)],
            "ingress_deployment_config": {
                "num_replicas": pods,
                "max_replicas_per_node": 1,
                "ray_actor_options": {"num_cpus": 0, "resources": {pinned_to or NODE_MARKER: MARK}},
            },
        },
    }


def _engine(
    params: KubernetesDeployParams, preset: ModelPreset, replicas: int, pinned_to: str | None
) -> dict[str, Any]:
    accelerator = {"GPU": 1} if params.accelerator.kind == "nvidia" else {}
    mark = {pinned_to: MARK} if pinned_to else {}
    return {
        "model_loading_config": {"model_id": params.model, "model_source": preset.source},
        "llm_engine": "vLLM",
        "engine_kwargs": engine_arguments(params, preset),
        "placement_group_config": {
            "bundle_per_worker": {"CPU": 1, **accelerator, ENGINE_SLOT: 1, **mark},
            "strategy": params.placement_strategy,
        },
        "deployment_config": {
            "num_replicas": replicas,
            "health_check_period_s": 5,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": 2,
            **({} if pinned_to else {"request_router_config": EJECTING}),
        },
        "log_engine_metrics": True,
        "experimental_configs": {"stream_batching_interval_ms": 0},
    }


def engine_arguments(params: KubernetesDeployParams, preset: ModelPreset) -> dict[str, Any]:
    """Return vLLM's arguments: the preset's, overridden by the user's, overridden by derived ones."""
    sizes: dict[str, Any] = {}
    if params.accelerator.kind == "nvidia":
        sizes = {
            "tensor_parallel_size": params.parallelism.tensor,
            "pipeline_parallel_size": params.parallelism.pipeline,
        }
    return {
        **preset.engine,
        **params.engine_arguments,
        **sizes,
        "otlp_traces_endpoint": params.telemetry.otlp_endpoint,
    }
