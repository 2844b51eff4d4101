"""The map of GPUs that each node's agent publishes: which pods compute on which GPU, and the GPUs' limits."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.kube.client import Cluster
from tasks.kube.manifest import stack_labels, stack_selector
from tasks.kube.node_fault import GPU_MAP_KEY, GPU_MAP_LABEL

log = logging.getLogger(__name__)


class PodOnGpu(BaseModel):
    """``name`` is None for a pod of another namespace: the agent may not see it."""

    model_config = ConfigDict(frozen=True)

    uid: str
    name: str | None = None


class GpuState(BaseModel):
    """Watts and MHz; None where the GPU does not say."""

    model_config = ConfigDict(frozen=True)

    uuid: str
    power_limit_w: float | None = None
    min_power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    max_power_limit_w: float | None = None
    max_sm_clock_mhz: float | None = None
    persistence_mode: bool = False
    pods: tuple[PodOnGpu, ...] = ()


class NodeGpus(BaseModel):
    """The map of one node. ``problem`` says why ``gpus`` is not known."""

    model_config = ConfigDict(frozen=True)

    node: str
    gpus: tuple[GpuState, ...] = ()
    problem: str = ""


def read_gpu_maps(cluster: Cluster) -> list[NodeGpus]:
    """Return what every agent of this stack has published, by node. Raises ClusterError."""
    selector = f"{stack_selector(cluster.namespace)},{GPU_MAP_LABEL}=true"
    found = []
    for document in cluster.list("v1", "ConfigMap", label_selector=selector):
        try:
            found.append(NodeGpus.model_validate_json((document.get("data") or {}).get(GPU_MAP_KEY, "")))
        except ValidationError:
            log.warning("ConfigMap %s is not a GPU map", document["metadata"]["name"])
    return sorted(found, key=lambda each: each.node)


def map_name(node_name: str) -> str:
    """Return the name of a node's ConfigMap: a node's name may be too long to be part of one."""
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:8]
    return f"gpu-map-{node_name[:200].rstrip('.-')}-{digest}"


def config_map(namespace: str, content: NodeGpus) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": map_name(content.node),
            "namespace": namespace,
            "labels": stack_labels(namespace) | {GPU_MAP_LABEL: "true"},
        },
        "data": {GPU_MAP_KEY: json.dumps(content.model_dump(mode="json"), indent=1)},
    }
