"""Pods and Services of five ways to deploy LLM serving on Kubernetes, as their charts and operators make them: written
by hand from their documentation, with the labels, names and commands that they set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.cluster import EmulatedCluster

Object = dict[str, Any]
NAMESPACE = "serving"


@dataclass(frozen=True)
class Deployment:
    """``services``: name -> (role, number of pods), as they must be recognised."""

    kind: str
    objects: tuple[Object, ...]
    services: dict[str, tuple[str, int]]
    model: str | None = None


def pod(
    name: str,
    image: str,
    labels: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
    container: str = "main",
    owner: tuple[str, str] | None = None,
    sidecar: str = "",
) -> Object:
    containers = [{"name": container, "image": image, "command": list(command)}]
    if sidecar:
        containers.insert(0, {"name": sidecar, "image": f"{sidecar}:1", "command": []})
    api = "ray.io/v1" if owner and owner[0].startswith("Ray") else "apps/v1"
    owners = [{"apiVersion": api, "kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {}, "ownerReferences": owners},
        "spec": {"containers": containers, "nodeName": "gpu-0"},
        "status": {"phase": "Running", "podIP": "10.1.0.2"},
    }


def put_all(cluster: EmulatedCluster, objects: Iterable[Object]) -> None:
    """Put the objects, and what owns them: a pod without its owner is collected."""
    for each in objects:
        for owner in each["metadata"].get("ownerReferences", ()):
            metadata = {"name": owner["name"], "namespace": NAMESPACE}
            there = cluster.get(owner["apiVersion"], owner["kind"], owner["name"], NAMESPACE)
            put = there or cluster.put({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "metadata": metadata})
            owner["uid"] = put["metadata"]["uid"]
        cluster.put(each)


def service(name: str, selector: dict[str, str], port: int, port_name: str = "http") -> Object:
    spec = {"selector": selector, "ports": [{"name": port_name, "port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def _of_deployment(name: str, number: int, template: str, labels: dict[str, str], **more: Any) -> list[Object]:
    letters = ("x7f2q", "b9k4m", "t5w8z", "c3n6r")
    return [
        pod(
            f"{name}-{template}-{letters[i]}",
            labels={**labels, "pod-template-hash": template},
            owner=("ReplicaSet", f"{name}-{template}"),
            **more,
        )
        for i in range(number)
    ]


def _kuberay() -> Deployment:
    shared = {
        "ray.io/cluster": "llm-raycluster-abcde",
        "ray.io/originated-from-crd": "RayService",
        "ray.io/originated-from-cr-name": "llm",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    owner = ("RayCluster", "llm-raycluster-abcde")
    image = "rayproject/ray-llm:2.46.0-py311-cu124"
    head = {**shared, "ray.io/node-type": "head", "ray.io/group": "headgroup"}
    worker = {**shared, "ray.io/node-type": "worker", "ray.io/group": "gpu-group"}
    name = "llm-raycluster-abcde"
    return Deployment(
        "KubeRay RayService",
        (
            pod(f"{name}-head-k2x8q", image, head, container="ray-head", owner=owner, sidecar="fluentbit"),
            *(
                pod(f"{name}-gpu-group-worker-{end}", image, worker, container="ray-worker", owner=owner)
                for end in ("4kz9t", "r8w2m")
            ),
            service("llm-serve-svc", {"ray.io/node-type": "head"}, 8000, "serve"),
        ),
        {"llm-head": ("head", 1), "llm-gpu-group": ("replica", 2)},
    )


def _production_stack() -> Deployment:
    engine = {"environment": "test", "release": "test", "model": "llama3", "helm-release-name": "vllm"}
    router = {"environment": "router", "release": "router"}
    command = ("vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct", "--host", "0.0.0.0", "--port", "8000")
    engines = _of_deployment(
        "vllm-llama3-deployment-vllm",
        3,
        "6d5f8c9b7",
        engine,
        image="lmcache/vllm-openai:v0.3.9",
        command=command,
        container="vllm",
    )
    routers = _of_deployment(
        "vllm-deployment-router",
        1,
        "7c4d5e6f8",
        router,
        image="lmcache/lmstack-router:latest",
        container="router-container",
    )
    return Deployment(
        "vLLM production stack",
        (*engines, *routers, service("vllm-router-service", router, 80)),
        {"vllm-deployment-router": ("gateway", 1), "vllm-llama3-deployment-vllm": ("replica", 3)},
        "meta-llama/Llama-3.1-8B-Instruct",
    )


def _llm_d() -> Deployment:
    labels = {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": "ms-llama"}
    image = "ghcr.io/llm-d/llm-d-cuda:v0.4.0"
    command = ("vllm", "serve", "/model", "--served-model-name", "Qwen/Qwen3-32B", "--port", "8200")
    parts = {
        role: _of_deployment(
            f"ms-llama-{role}",
            number,
            "5b6c7d8e9",
            {**labels, "llm-d.ai/role": role},
            image=image,
            command=command,
            container="vllm",
            sidecar="routing-proxy",
        )
        for role, number in (("decode", 2), ("prefill", 2))
    }
    picker = _of_deployment(
        "gaie-epp",
        1,
        "9f8e7d6c5",
        {"inferencepool": "gaie-epp"},
        image="ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0",
        container="epp",
    )
    gateway = _of_deployment(
        "infra-inference-gateway",
        1,
        "8c7b6a5d4",
        {"gateway.networking.k8s.io/gateway-name": "infra-inference-gateway"},
        image="cr.kgateway.dev/kgateway-dev/envoy-wrapper:v2.1.1",
    )
    return Deployment(
        "llm-d",
        (*parts["decode"], *parts["prefill"], *picker, *gateway),
        {
            "infra-inference-gateway": ("gateway", 1),
            "gaie-epp": ("head", 1),
            "ms-llama-decode": ("replica", 2),
            "ms-llama-prefill": ("replica", 2),
        },
        "Qwen/Qwen3-32B",
    )


def _kserve() -> Deployment:
    labels = {"serving.kserve.io/inferenceservice": "llama", "component": "predictor", "app": "isvc.llama-predictor"}
    predictors = _of_deployment(
        "llama-predictor",
        2,
        "84d6c9f7b",
        labels,
        image="kserve/huggingfaceserver:v0.15.2-gpu",
        command=("python", "-m", "huggingfaceserver", "--model_name=llama", "--model_id=meta-llama/Llama-3.2-1B"),
        container="kserve-container",
        sidecar="queue-proxy",
    )
    transformer = {**labels, "component": "transformer"}
    before = _of_deployment("llama-transformer", 1, "75c8b6d9f", transformer, image="acme/pre:1")
    return Deployment(
        "KServe InferenceService",
        (*predictors, *before),
        {"llama-predictor": ("replica", 2), "llama-transformer": ("service", 1)},
        None,
    )


def _plain() -> Deployment:
    engines = _of_deployment(
        "llama",
        3,
        "5f4d3c2b1",
        {"app": "llama"},
        image="vllm/vllm-openai:v0.11.0",
        command=("vllm", "serve", "meta-llama/Llama-3.1-8B", "--served-model-name", "llama"),
    )
    proxy = _of_deployment("edge", 1, "1a2b3c4d5", {"app": "edge"}, image="docker.io/library/nginx:1.29")
    return Deployment(
        "plain pods",
        (*engines, *proxy, service("edge", {"app": "edge"}, 80)),
        {"edge": ("gateway", 1), "llama": ("replica", 3)},
        "llama",
    )


DEPLOYMENTS = (_kuberay(), _production_stack(), _llm_d(), _kserve(), _plain())
