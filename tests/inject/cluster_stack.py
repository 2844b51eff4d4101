"""A stack on an emulated cluster: its pods, Chaos Mesh, and a Prometheus that shows what the faults in it would do."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.deploy.kubernetes.runtime import KubernetesRuntime, PodRuntime, ServiceRuntime, service_selector
from tasks.inject import catalogue
from tasks.inject.executors.kubernetes.chaos_mesh import ChaosExecutor
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.kube.manifest import stack_labels
from tasks.stack import Role
from tasks.workspace import Workspace
from tests.kubernetes.chaos_mesh import ChaosMeshController
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.rbac import put_roles
from tests.kubernetes.workloads import DeploymentController, Kubelet, is_ready

ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-head": "head", "ray-replicas-0": "replica"}
CONTAINERS = {"gateway": "nginx", "head": "ray-head", "replica": "ray-worker"}
LIMITS = {"cpu": "4", "memory": "4Gi"}
CHAOS_KINDS = [
    each.name
    for each in catalogue.list_fault_kinds()
    if issubclass(each.executors.get("kubernetes", object), ChaosExecutor)
]
"""Every kind that Chaos Mesh carries out."""
SCRAPE_S = 0.2
PAST_S = 60.0
MIB = 2**20


@dataclass
class ClusterStack:
    runtime: KubernetesRuntime
    workspace: Workspace
    cluster: EmulatedCluster
    mesh: ChaosMeshController
    prometheus: EmulatedPrometheus

    def target(self, name: str = "ray-replicas-0") -> KubernetesTarget:
        return KubernetesTarget.of(self.runtime, name)

    def pod(self, service: str = "ray-replicas-0") -> dict[str, Any]:
        return self.cluster.objects("v1", "Pod", self.runtime.namespace, f"app={service}")[0]

    def chaos(self) -> list[dict[str, Any]]:
        kinds = ("StressChaos", "NetworkChaos", "PodChaos")
        return [each for kind in kinds for each in self.cluster.objects("chaos-mesh.org/v1alpha1", kind)]

    def heal(self) -> None:
        """As new: no resource, no trouble, a controller that works."""
        self.cluster.behave()
        vars(self.mesh).update(never_inject="", stuck="", deaf=False, skip_pods=(), asleep=False)
        for each in self.chaos():
            metadata = each["metadata"]
            self.cluster.remove(each["apiVersion"], each["kind"], metadata["name"], metadata["namespace"])


@contextmanager
def cluster_stack(directory: Path) -> Iterator[ClusterStack]:
    """Start it and publish it in ``directory``. Injections have the rights of their account, and need no more."""
    directory.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(directory / "workspace")
    mesh = ChaosMeshController()
    with EmulatedCluster() as cluster:
        namespace = cluster.namespace
        stack_uid = cluster.add_namespace(namespace, stack_labels(namespace))["metadata"]["uid"]
        put_roles(cluster)
        cluster.add_node("node-0")
        for name, role in ROLES.items():
            cluster.put(_deployment(namespace, name, CONTAINERS[role]))
        for controller in (DeploymentController(), Kubelet(), mesh):
            cluster.add_controller(controller)
        cluster.wait_for(lambda: sum(map(is_ready, cluster.objects("v1", "Pod"))) == len(ROLES))
        with EmulatedPrometheus(cluster, mesh) as prometheus:
            runtime = KubernetesRuntime(
                cluster=cluster.address(directory, account="rcarena-inject"),
                stack_uid=stack_uid,
                services=tuple(_service(cluster, name, role) for name, role in ROLES.items()),
                model="none",
                directory=workspace.stack,
                gateway_url="http://unused",
                prometheus_url=prometheus.url,
            )
            runtime.write()
            yield ClusterStack(runtime, workspace, cluster, mesh, prometheus)
            assert cluster.refused == []


def _deployment(namespace: str, name: str, container: str) -> dict[str, Any]:
    labels = {"app": name, **stack_labels(namespace)}
    containers = [{"name": container, "image": "none", "resources": {"limits": LIMITS}}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def _service(cluster: EmulatedCluster, name: str, role: Role) -> ServiceRuntime:
    selector = service_selector(cluster.namespace, name)
    pods = tuple(
        PodRuntime(
            name=pod["metadata"]["name"],
            uid=pod["metadata"]["uid"],
            node=pod["spec"]["nodeName"],
            ip=pod["status"]["podIP"],
        )
        for pod in cluster.objects("v1", "Pod", cluster.namespace, selector)
    )
    return ServiceRuntime(name=name, role=role, selector=selector, container=CONTAINERS[role], pods=pods)


class EmulatedPrometheus:
    """Answers instant queries for raw samples. It scrapes every ``SCRAPE_S`` and has a past of ``PAST_S``.

    ``down``: it answers 503.
    """

    def __init__(self, cluster: EmulatedCluster, mesh: ChaosMeshController) -> None:
        self.down = False
        self._cluster, self._mesh = cluster, mesh
        self._points: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True),
            threading.Thread(target=self._scrape_on, daemon=True),
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> EmulatedPrometheus:
        now = time.time()
        for step in range(int(PAST_S / SCRAPE_S), 0, -1):
            self._scrape(now - step * SCRAPE_S)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(5)

    def answer(self, query: str) -> dict[str, Any]:
        parsed = re.fullmatch(r"(\w+)\{(.*)\}\[(\d+)s\]", query)
        assert parsed, query
        matchers = re.findall(r'(\w+)(=~|=)"([^"]*)"', parsed[2])
        oldest = time.time() - int(parsed[3])
        with self._lock:
            found = [
                {"metric": dict(key), "values": [[at, f"{value}"] for at, value in points if at >= oldest]}
                for key, points in self._points.items()
                if dict(key)["__name__"] == parsed[1] and all(_matches(dict(key), *each) for each in matchers)
            ]
        result = [each for each in found if each["values"]]
        return {"status": "success", "data": {"resultType": "matrix", "result": result}}

    def _scrape_on(self) -> None:
        while not self._stopped.wait(SCRAPE_S):
            self._scrape(time.time())

    def _scrape(self, now: float) -> None:
        for pod in self._cluster.objects("v1", "Pod", self._cluster.namespace):
            name = pod["metadata"]["name"]
            specs = self._mesh.acting_on(self._cluster, self._cluster.namespace, name)
            place = {"namespace": self._cluster.namespace, "pod": name}
            container = {**place, "container": pod["spec"]["containers"][0]["name"]}
            cores, memory, seconds, up = _figures(specs)
            self._add(now, "container_cpu_usage_seconds_total", container, cores * SCRAPE_S, counter=True)
            self._add(now, "container_memory_working_set_bytes", container, memory)
            self._add(now, "scrape_duration_seconds", place, seconds)
            self._add(now, "up", place, up)

    def _add(self, now: float, name: str, labels: dict[str, str], value: float, counter: bool = False) -> None:
        key = tuple(sorted({"__name__": name, **labels}.items()))
        with self._lock:
            points = self._points.setdefault(key, [])
            last = points[-1][1] if counter and points else 0.0
            points.append((now, last + value))


def _figures(specs: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Cores, bytes, seconds of a scrape, and whether it works, as a pod with these faults would show them."""
    cores, memory, seconds, up = random.uniform(0.4, 0.6), 500.0 * MIB, random.uniform(0.01, 0.02), 1.0
    for spec in specs:
        stressors, action = spec.get("stressors", {}), spec.get("action")
        if "cpu" in stressors:
            cores = min(float(LIMITS["cpu"]), cores + stressors["cpu"]["workers"] * stressors["cpu"]["load"] / 100)
        if "memory" in stressors:
            memory += int(stressors["memory"]["size"].removesuffix("MB")) * MIB
        if action == "delay":
            seconds += 2 * int(spec["delay"]["latency"].removesuffix("ms")) / 1e3
        if action in ("loss", "bandwidth"):
            seconds += 0.6
        if action == "partition":
            seconds, up = 5.0, 0.0
    return cores, memory, seconds, up


def _matches(labels: dict[str, str], label: str, operator: str, value: str) -> bool:
    actual = labels.get(label, "")
    return actual == value if operator == "=" else re.fullmatch(value, actual) is not None


def _handler(prometheus: EmulatedPrometheus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)["query"][0]
            body = json.dumps(prometheus.answer(query)).encode()
            self.send_response(503 if prometheus.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
