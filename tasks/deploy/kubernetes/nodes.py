"""Reads container runtimes and accelerators from the nodes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.deploy.kubernetes.charts import ContainerRuntime, Distribution
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import ALL_NAMESPACES, Cluster, Object
from tasks.kube.errors import ForbiddenError
from tasks.kube.status import condition

SOCKETS: dict[str, str] = {
    "containerd": "/run/containerd/containerd.sock",
    "cri-o": "/run/crio/crio.sock",
    "docker": "/var/run/docker.sock",
}
CONTAINERD_SOCKETS: dict[Distribution, str] = {
    "k3s": "/run/k3s/containerd/containerd.sock",
    "rke2": "/run/k3s/containerd/containerd.sock",
    "k0s": "/run/k0s/containerd.sock",
    "microk8s": "/var/snap/microk8s/common/run/containerd.sock",
}
VERSION_MARKS: dict[str, Distribution] = {"+k3s": "k3s", "+rke2": "rke2", "+k0s": "k0s", "-gke": "gke"}
LABEL_MARKS: dict[str, Distribution] = {"microk8s.io/cluster": "microk8s", "node.openshift.io/os_id": "openshift"}
PRODUCT_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True)
class NodeGpus:
    """Accelerators of one node usable by the stack; ``used``: taken by other namespaces' pods (None: unknown)."""

    node: str
    product: str
    allocatable: int
    used: int | None


def container_runtimes(nodes: list[Object]) -> dict[ContainerRuntime, list[str]]:
    """Return runtime -> names of its nodes, without nodes of an unknown runtime."""
    found: dict[ContainerRuntime, list[str]] = {}
    for node in nodes:
        runtime = _runtime(node)
        if runtime is not None:
            found.setdefault(runtime, []).append(str(node["metadata"]["name"]))
    return found


def container_runtime(cluster: Cluster) -> ContainerRuntime:
    """Return the runtime of most nodes; containerd when unknown. Raises ClusterError."""
    try:
        found = container_runtimes(cluster.list("v1", "Node"))
    except ForbiddenError:
        found = {}
    return max(found, key=lambda runtime: len(found[runtime])) if found else ContainerRuntime()


def gpu_nodes(cluster: Cluster, params: KubernetesDeployParams) -> tuple[NodeGpus, ...]:
    """Return the ready, schedulable nodes with the accelerator that fit ``node_selector``. Raises ClusterError."""
    resource = params.accelerator.resource
    nodes = [node for node in cluster.list("v1", "Node") if _usable(node, params)]
    used = _used(cluster, resource, params.namespace)
    return tuple(
        NodeGpus(
            node=str(node["metadata"]["name"]),
            product=str((node["metadata"].get("labels") or {}).get(PRODUCT_LABEL, "unknown")),
            allocatable=allocatable,
            used=None if used is None else used.get(str(node["metadata"]["name"]), 0),
        )
        for node in nodes
        if (allocatable := int((node["status"].get("allocatable") or {}).get(resource, 0)))
    )


def _runtime(node: Object) -> ContainerRuntime | None:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    kind = str(info.get("containerRuntimeVersion", "")).partition("://")[0]
    distribution = _distribution(node, str(info.get("kubeletVersion", "")))
    if kind == "containerd":
        socket = CONTAINERD_SOCKETS.get(distribution, SOCKETS[kind])
        return ContainerRuntime("containerd", socket, distribution)
    if kind == "cri-o":
        return ContainerRuntime("crio", SOCKETS[kind], distribution)
    return ContainerRuntime("docker", SOCKETS[kind], distribution) if kind == "docker" else None


def _distribution(node: Object, version: str) -> Distribution:
    labels = node["metadata"].get("labels") or {}
    if str((node.get("spec") or {}).get("providerID", "")).startswith("kind://"):
        return "kind"
    marks = [mark for text, mark in VERSION_MARKS.items() if text in version]
    return next(iter(marks + [mark for label, mark in LABEL_MARKS.items() if label in labels]), "")


def _usable(node: Object, params: KubernetesDeployParams) -> bool:
    labels = node["metadata"].get("labels") or {}
    usable = condition(node, "Ready") and params.accelerator.node_selector.items() <= labels.items()
    return usable and not (node.get("spec") or {}).get("unschedulable") and _tolerated(node, params)


def _tolerated(node: Object, params: KubernetesDeployParams) -> bool:
    taints = [
        taint
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint.get("effect") in ("NoSchedule", "NoExecute")
    ]
    return all(any(_tolerates(each, taint) for each in params.accelerator.tolerations) for taint in taints)


def _tolerates(toleration: Any, taint: dict[str, Any]) -> bool:
    if toleration.key != taint["key"] or toleration.effect not in (None, taint.get("effect")):
        return False
    return toleration.operator == "Exists" or toleration.value == taint.get("value", "")


def _used(cluster: Cluster, resource: str, own_namespace: str) -> dict[str, int] | None:
    """Return node -> accelerators taken by pods of other namespaces; None when these may not be listed (in a pod)."""
    if cluster.address.in_cluster:
        return None
    try:
        pods = cluster.list("v1", "Pod", namespace=ALL_NAMESPACES)
    except ForbiddenError:
        return None
    used: dict[str, int] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if node and not finished and pod["metadata"].get("namespace") != own_namespace:
            used[node] = used.get(node, 0) + _requested(pod, resource)
    return used


def _requested(pod: Object, resource: str) -> int:
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod["spec"].get("containers") or ()]
    return sum(int(each.get(resource, 0)) for each in limits)
