"""Builds a stack's runtime description from the objects on the cluster."""

from __future__ import annotations

from pathlib import Path

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes.access import choose_urls
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import RAY_VERSION
from tasks.deploy.kubernetes.runtime import (
    KubernetesRuntime,
    PodRuntime,
    ServiceRuntime,
    service_selector,
)
from tasks.deploy.kubernetes.waiting import is_ready
from tasks.kube.client import Cluster
from tasks.kube.gpu_map import read_gpu_maps
from tasks.stack import Role

CONTAINERS: dict[Role, str] = {"gateway": "nginx", "head": "ray-head", "replica": "ray-worker"}


def describe(cluster: Cluster, params: KubernetesDeployParams, directory: Path) -> KubernetesRuntime:
    """Return the stack's runtime description. Raises DeployError (a service has no ready pod) and ClusterError."""
    known = KubernetesRuntime.read(directory)
    urls = choose_urls(params, cluster.address, known.forwards if known else ())
    gpus = _gpus_of_pods(cluster)
    return KubernetesRuntime(
        cluster=cluster.address,
        stack_uid=str(cluster.get("v1", "Namespace", params.namespace)["metadata"]["uid"]),
        services=tuple(_service(cluster, name, role, gpus) for name, role in params.roles().items()),
        model=params.model,
        directory=directory,
        gateway_url=urls.gateway,
        prometheus_url=urls.prometheus,
        loki_url=urls.loki,
        spans_url=urls.spans,
        deepflow_url=urls.deepflow,
        forwards=urls.forwards,
        versions={"kubernetes": cluster.version(), "ray": RAY_VERSION, "serve-image": params.images.serve},
    )


def _service(cluster: Cluster, name: str, role: Role, gpus: dict[str, tuple[str, ...]]) -> ServiceRuntime:
    selector = service_selector(cluster.namespace, name)
    pods = [pod for pod in cluster.list("v1", "Pod", label_selector=selector) if is_ready(pod)]
    if not pods:
        raise DeployError(f"{name} has no ready pod: it was lost while the stack came up; try again")
    return ServiceRuntime(
        name=name,
        role=role,
        selector=selector,
        container=CONTAINERS[role],
        pods=tuple(
            PodRuntime(
                name=str(pod["metadata"]["name"]),
                uid=str(pod["metadata"]["uid"]),
                node=str(pod["spec"]["nodeName"]),
                ip=str(pod["status"]["podIP"]),
                gpus=gpus.get(str(pod["metadata"]["uid"]), ()),
            )
            for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
        ),
    )


def _gpus_of_pods(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Return pod UID -> UUIDs of its GPUs, as reported by the GPU agents."""
    found: dict[str, tuple[str, ...]] = {}
    for node in read_gpu_maps(cluster):
        for gpu in node.gpus:
            for pod in gpu.pods:
                found[pod.uid] = (*found.get(pod.uid, ()), gpu.uuid)
    return found
