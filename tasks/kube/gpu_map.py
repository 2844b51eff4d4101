"""Which pods compute on which GPU of this node, and the GPUs' limits, for the exporter, preflight and the injectors."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.kube.client import Cluster
from tasks.kube.manifest import stack_labels, stack_selector
from tasks.kube.node_fault import GPU_MAP_KEY, GPU_MAP_LABEL
from tasks.node_agent.actions import Node
from tasks.node_agent.nvidia_smi import Gpu, NvidiaSmiError

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
    """What one agent publishes. ``problem`` says why ``gpus`` cannot be told."""

    model_config = ConfigDict(frozen=True)

    node: str
    gpus: tuple[GpuState, ...] = ()
    problem: str = ""


def observe(node: Node, node_name: str, pod_names: dict[str, str]) -> NodeGpus:
    """``pod_names``: UID -> name of the pods that may be named."""
    try:
        gpus = node.smi.gpus()
        computing = node.smi.compute_processes()
    except NvidiaSmiError as error:
        return NodeGpus(node=node_name, problem=str(error))
    on_gpu: dict[str, set[str]] = {uuid: set() for uuid in gpus}
    for pid, uuid in computing:
        pod = node.processes.pod_of(pid)
        if pod is not None and uuid in on_gpu:
            on_gpu[uuid].add(pod)
    for uid in set(pod_names) - set().union(*on_gpu.values()):
        for uuid in node.processes.assigned_gpus(uid) & set(on_gpu):
            on_gpu[uuid].add(uid)
    states = (_state(gpu, sorted(on_gpu[uuid]), pod_names) for uuid, gpu in sorted(gpus.items()))
    return NodeGpus(node=node_name, gpus=tuple(states))


class Publisher:
    """Writes this node's map into a ConfigMap whenever it changed."""

    def __init__(self, cluster: Cluster, node: Node, node_name: str) -> None:
        self._cluster = cluster
        self._node = node
        self._node_name = node_name
        self._published: NodeGpus | None = None

    def publish(self) -> None:
        """Raises ClusterError."""
        pods = self._cluster.list("v1", "Pod", field_selector=f"spec.nodeName={self._node_name}")
        names = {str(pod["metadata"]["uid"]): str(pod["metadata"]["name"]) for pod in pods}
        now = observe(self._node, self._node_name, names)
        if now != self._published:
            self._cluster.apply(_config_map(self._cluster.namespace, now))
            self._published = now


def read_gpu_maps(cluster: Cluster) -> list[NodeGpus]:
    """What every agent of this stack has published, by node. Raises ClusterError."""
    selector = f"{stack_selector(cluster.namespace)},{GPU_MAP_LABEL}=true"
    found = []
    for document in cluster.list("v1", "ConfigMap", label_selector=selector):
        try:
            found.append(NodeGpus.model_validate_json((document.get("data") or {}).get(GPU_MAP_KEY, "")))
        except ValidationError:
            log.warning("ConfigMap %s is not a GPU map", document["metadata"]["name"])
    return sorted(found, key=lambda each: each.node)


def map_name(node_name: str) -> str:
    """Name of the ConfigMap: a node's name may be too long to be part of one."""
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:8]
    return f"gpu-map-{node_name[:200].rstrip('.-')}-{digest}"


def _config_map(namespace: str, content: NodeGpus) -> dict[str, Any]:
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


def _state(gpu: Gpu, pods: list[str], pod_names: dict[str, str]) -> GpuState:
    return GpuState(
        uuid=gpu.uuid,
        power_limit_w=gpu.power_limit,
        min_power_limit_w=gpu.min_limit,
        default_power_limit_w=gpu.default_limit,
        max_power_limit_w=gpu.max_limit,
        max_sm_clock_mhz=gpu.max_sm_clock,
        persistence_mode=gpu.persistence,
        pods=tuple(PodOnGpu(uid=uid, name=pod_names.get(uid)) for uid in pods),
    )
