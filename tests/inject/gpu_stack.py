"""A stack with GPUs on an emulated cluster: the real node agent on a node of stand-ins, and a Prometheus with given
figures."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.deploy.kubernetes.names import RAY_SERVICE
from tasks.deploy.kubernetes.runtime import KubernetesRuntime, PodRuntime, ServiceRuntime, service_selector
from tasks.inject import catalogue
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.kube.client import Cluster
from tasks.kube.gpu_map import read_gpu_maps
from tasks.kube.manifest import stack_labels
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.node_agent import EmulatedNodeAgent
from tests.kubernetes.rbac import put_roles
from tests.kubernetes.workloads import Kubelet
from tests.node_agent.machine import GPU, NODE, OTHER_GPU

REPLICA = "ray-replicas-1"
STEP_S, PAST_S = 0.5, 20.0
Figures = Callable[[], dict[str, float]]


class StubPrometheus:
    """Answers queries for raw samples of ``figures()``, as they are now for all of the past."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.queries: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, query: str) -> dict[str, Any]:
        self.queries.append(query)
        selector = re.fullmatch(r"(.+)\[\d+s\]", query)
        assert selector, query
        now = time.time() // STEP_S * STEP_S
        times = [now - PAST_S + step * STEP_S for step in range(int(PAST_S / STEP_S))]
        result = [
            {"metric": {"__name__": name}, "values": [[at, str(_value(name, value, at))] for at in times]}
            for name, value in self.figures().items()
            if name in selector[1]
        ]
        return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def _value(name: str, value: float, at: float) -> float:
    """A counter grows by ``value`` a second."""
    return value * at if name.endswith(("_total", "_count")) else value


@dataclass
class GpuStack:
    runtime: KubernetesRuntime
    cluster: EmulatedCluster
    agent: EmulatedNodeAgent
    prometheus: StubPrometheus
    directory: Path

    def target(self, service: str = REPLICA) -> KubernetesTarget:
        return KubernetesTarget.of(self.runtime, service)

    def fault(self, kind: str, injection_id: str = "case-3.0", service: str = REPLICA, **parameters: Any) -> Any:
        resolved = catalogue.resolve_parameters(kind, parameters, "kubernetes")
        made = catalogue.fault_kind(kind).executor("kubernetes")(
            self.target(service), resolved, self.directory / f"{injection_id}.json"
        )
        assert isinstance(made, KubernetesExecutor)
        return made

    @property
    def client(self) -> Cluster:
        return Cluster(self.runtime.cluster)


@contextmanager
def gpu_stack(directory: Path, figures: Figures) -> Iterator[GpuStack]:
    """Injections and the agent have the rights of their service accounts, and need no more."""
    with EmulatedCluster() as cluster:
        uid = cluster.add_namespace(cluster.namespace, stack_labels(cluster.namespace))["metadata"]["uid"]
        put_roles(cluster)
        cluster.add_node(NODE, gpus=2)
        cluster.add_controller(Kubelet())
        for service, container in (("nginx-proxy", "nginx"), (REPLICA, "ray-worker")):
            cluster.put(_pod(cluster.namespace, service, container))
        put_ray_service(cluster, replicas=1)
        cluster.wait_for(lambda: len(_running(cluster)) == 2)
        agent = EmulatedNodeAgent(cluster, directory, account="gpu-agent")
        pod = next(each for each in _running(cluster) if each["metadata"]["name"].startswith(REPLICA))
        agent.machine.add_process(10, pod["metadata"]["uid"], gpu=GPU)
        prometheus = StubPrometheus(figures)
        services = tuple(
            _service(cluster, *each)
            for each in (("nginx-proxy", "gateway", "nginx"), (REPLICA, "replica", "ray-worker"))
        )
        runtime = KubernetesRuntime(
            cluster=cluster.address(directory, account="rcarena-inject"),
            stack_uid=uid,
            services=services,
            model="none",
            directory=directory,
            gateway_url="http://unused",
            prometheus_url=prometheus.url,
        )
        with agent:
            stack = GpuStack(runtime, cluster, agent, prometheus, directory)
            with stack.client as client:
                cluster.wait_for(lambda: bool(read_gpu_maps(client)))
            yield stack
        prometheus.close()
        assert cluster.refused == []


def put_ray_service(cluster: EmulatedCluster, replicas: int, routes: tuple[str, ...] = ("/",)) -> None:
    applications = [{"name": f"llm-{number}", "route_prefix": route} for number, route in enumerate(routes)]
    groups = [{"groupName": f"ray-replicas-{number}"} for number in range(replicas)]
    cluster.put(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": RAY_SERVICE},
            "spec": {
                "serveConfigV2": json.dumps({"applications": applications}),
                "rayClusterConfig": {"workerGroupSpecs": groups},
            },
        }
    )


def _pod(namespace: str, service: str, container: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{service}-abc", "labels": {"app": service, **stack_labels(namespace)}},
        "spec": {
            "runtimeClassName": "nvidia",
            "containers": [{"name": container, "image": f"registry.example/{container}:1"}],
        },
    }


def _running(cluster: EmulatedCluster) -> list[dict[str, Any]]:
    return [pod for pod in cluster.objects("v1", "Pod") if pod.get("status", {}).get("phase") == "Running"]


def _service(cluster: EmulatedCluster, name: str, role: Any, container: str) -> ServiceRuntime:
    selector = service_selector(cluster.namespace, name)
    pods = cluster.objects("v1", "Pod", cluster.namespace, selector)
    return ServiceRuntime(
        name=name,
        role=role,
        selector=selector,
        container=container,
        pods=tuple(
            PodRuntime(
                name=pod["metadata"]["name"],
                uid=pod["metadata"]["uid"],
                node=pod["spec"]["nodeName"],
                ip=pod["status"]["podIP"],
                gpus=(GPU,),
            )
            for pod in pods
        ),
    )


def _handler(prometheus: StubPrometheus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps(prometheus.answer(parse_qs(urlsplit(self.path).query)["query"][0])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


__all__ = ["GPU", "NODE", "OTHER_GPU", "REPLICA", "GpuStack", "gpu_stack", "put_ray_service"]
