"""Publish which pods compute on which GPU of this node."""

from __future__ import annotations

from tasks.kube.client import Cluster
from tasks.kube.gpu_map import GpuState, NodeGpus, PodOnGpu, config_map
from tasks.node_agent.actions import Node
from tasks.node_agent.nvidia_smi import Gpu, NvidiaSmiError


def observe(node: Node, node_name: str, pod_names: dict[str, str]) -> NodeGpus:
    """Return the map of this node. ``pod_names``: UID -> name of the pods that may be named."""
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
    """Writes the map of this node into a ConfigMap whenever it changed."""

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
            self._cluster.apply(config_map(self._cluster.namespace, now))
            self._published = now


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
