"""Whole stacks on an emulated cluster, a namespace each, for campaigns: what faults do to their pods shows in their
requests and telemetry.

Real are RCArena, Prometheus and the node agent. Stand-ins are the API server, the operators, the GPUs, the gateway with
the engines behind it, Loki and the collector's file server.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.export.emulators import FilesEmulator, LokiEmulator, Request, Response, serving
from tests.kubernetes.chaos_mesh import ChaosMeshController
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.node_agent import EmulatedNodeAgent
from tests.kubernetes.store import Object
from tests.kubernetes.workloads import DeploymentController, Kubelet, RayServiceController, is_ready
from tests.node_agent import fake_nvidia_smi
from tests.node_agent.machine import GPU, NODE, OTHER_GPU

STEP_S = 0.25
FIRST_TOKEN_S, TOKEN_S = 0.03, 0.004
IDLE_CORES, MEMORY = 0.2, 500.0 * 2**20
FULL_POWER_W = 350.0
BATCH, BUSY_S, BUSY_REQUESTS = 4, 3.0, 4
"""Requests that an engine seems to run when it was asked so often within so many seconds."""
SERVICES = ("nginx-proxy", "ray-head", "ray-replicas-0", "ray-replicas-1")
GPU_OF = {"ray-replicas-0": GPU, "ray-replicas-1": OTHER_GPU}


@dataclass
class Pod:
    """What a pod does and has done."""

    namespace: str
    name: str
    service: str
    container: str
    uid: str
    node: str
    cpu_seconds: float = 100.0
    sent: float = 1e6
    running: int = 0
    steps: float = 0.0
    asked_at: list[float] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        return sum(time.time() - at < BUSY_S for at in self.asked_at[-BUSY_REQUESTS:]) == BUSY_REQUESTS


@dataclass
class LiveStack:
    cluster: EmulatedCluster
    mesh: ChaosMeshController
    agent: EmulatedNodeAgent
    namespaces: tuple[str, ...] = ("rcarena",)
    gateway_url: str = ""
    prometheus_url: str = ""
    loki_url: str = ""
    spans_url: str = ""
    prometheus_targets: str = ""
    spans: FilesEmulator = field(default_factory=lambda: FilesEmulator({"spans.jsonl": b""}))
    logs: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)
    loki_failures: int = 0
    _pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def pods(self) -> list[Pod]:
        with self._lock:
            return list(self._pods.values())

    def leftovers(self) -> list[str]:
        """Names of everything that faults have put into the cluster."""
        kinds = [("chaos-mesh.org/v1alpha1", kind) for kind in ("StressChaos", "NetworkChaos", "PodChaos")]
        kinds.append(("rcarena.io/v1alpha1", "NodeFault"))
        return [str(each["metadata"]["name"]) for kind in kinds for each in self.cluster.objects(*kind)]

    def faults_on(self, pod: Pod) -> list[Object]:
        return self.mesh.acting_on(self.cluster, pod.namespace, pod.name)

    def delay_s(self, pod: Pod) -> float:
        latencies = [spec["delay"]["latency"] for spec in self.faults_on(pod) if spec.get("action") == "delay"]
        return sum(int(each.removesuffix("ms")) / 1e3 for each in latencies)

    def slowness(self, pod: Pod) -> float:
        """How many times as long as usual an engine step takes."""
        limit = self.agent.machine.limit(GPU_OF[pod.service]) if pod.service in GPU_OF else FULL_POWER_W
        stressed = any("cpu" in spec.get("stressors", {}) for spec in self.faults_on(pod))
        return (4.0 if stressed else 1.0) * max(1.0, FULL_POWER_W / limit)

    # The world goes on.

    def live_on(self, stopped: threading.Event) -> None:
        while not stopped.wait(STEP_S):
            self._look()
            for pod in self.pods():
                stressors = [spec["stressors"] for spec in self.faults_on(pod) if "cpu" in spec.get("stressors", {})]
                workers = sum(each["cpu"]["workers"] for each in stressors)
                pod.cpu_seconds += STEP_S * (IDLE_CORES + 0.1 * pod.running + min(8, workers) + random.uniform(0, 0.02))
                pod.sent += STEP_S * 1000
                if pod.is_busy:
                    pod.steps += STEP_S / (TOKEN_S * self.slowness(pod))

    def _look(self) -> None:
        found = {}
        for document in self.cluster.objects("v1", "Pod"):
            metadata = document["metadata"]
            service = (metadata.get("labels") or {}).get("app")
            key = (metadata["namespace"], metadata["name"])
            if key[0] in self.namespaces and service in SERVICES and is_ready(document):
                found[key] = self._pods.get(key) or self._new(document, service)
        with self._lock:
            self._pods = found

    def _new(self, document: Object, service: str) -> Pod:
        spec = document["spec"]
        uid = document["metadata"]["uid"]
        if service in GPU_OF:
            self.agent.machine.add_process(
                100 + next(self._numbers), pod=uid, gpu=GPU_OF[service], title="VLLM::EngineCore"
            )
        metadata = document["metadata"]
        return Pod(
            metadata["namespace"], metadata["name"], service, spec["containers"][0]["name"], uid, spec["nodeName"]
        )

    # What Prometheus scrapes.

    def telemetry(self, request: Request) -> Response:
        if request.path == "/targets":
            return Response(json.dumps(self._targets()).encode(), headers={"Content-Type": "application/json"})
        if request.path == "/cluster":
            return _page("".join(map(self._cluster_series, self.pods())) + self._gpu_series())
        pod = next((each for each in self.pods() if request.path == f"/pods/{each.namespace}/{each.name}"), None)
        if pod is None:
            return Response(b"", 404)
        time.sleep(random.uniform(0.002, 0.004) + 2 * self.delay_s(pod))
        return _page(self._own_series(pod))

    def _targets(self) -> list[dict[str, Any]]:
        host = self.prometheus_targets
        labels = [{"namespace": pod.namespace, "pod": pod.name, "service": pod.service} for pod in self.pods()]
        return [
            {"targets": [host], "labels": {**each, "__metrics_path__": f"/pods/{each['namespace']}/{each['pod']}"}}
            for each in labels
        ]

    def _cluster_series(self, pod: Pod) -> str:
        where = f'namespace="{pod.namespace}",pod="{pod.name}"'
        container = f'{where},container="{pod.container}",image="i"'
        uid = f'{where},uid="{pod.uid}"'
        return (
            f"container_cpu_usage_seconds_total{{{container}}} {pod.cpu_seconds}\n"
            f"container_memory_working_set_bytes{{{container}}} {MEMORY}\n"
            f"container_memory_rss{{{container}}} {MEMORY}\n"
            f'container_network_transmit_bytes_total{{{where},interface="eth0"}} {pod.sent}\n'
            f'container_network_receive_bytes_total{{{where},interface="eth0"}} {pod.sent}\n'
            f'kube_pod_labels{{{uid},label_app="{pod.service}"}} 1\n'
            f'kube_pod_info{{{uid},node="{pod.node}"}} 1\n'
            f'kube_pod_status_phase{{{uid},phase="Running"}} 1\n'
        )

    def _gpu_series(self) -> str:
        text = ""
        for service, gpu in GPU_OF.items():
            limit = self.agent.machine.limit(gpu)
            busy = any(pod.service == service for pod in self.pods())
            power = min(limit, FULL_POWER_W) - 5 if busy else 80.0
            text += (
                f'DCGM_FI_DEV_POWER_USAGE{{UUID="{gpu}"}} {power}\n'
                f'DCGM_FI_DEV_POWER_MGMT_LIMIT{{UUID="{gpu}"}} {limit}\n'
                f'DCGM_FI_DEV_GPU_UTIL{{UUID="{gpu}"}} {90 if busy else 0}\n'
            )
        return text

    def _own_series(self, pod: Pod) -> str:
        if pod.service not in GPU_OF:
            return "up_of_pod 1\n"
        return (
            f"ray_vllm_num_requests_running {BATCH if pod.is_busy else 0}\n"
            f"ray_vllm_generation_tokens_total {BATCH * pod.steps}\n"
            f"ray_vllm_iteration_tokens_total_count {pod.steps}\n"
        )

    # What clients see.

    def serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        index = re.match(r"/(\d+)/", handler.path)
        namespace = self.namespaces[int(index[1]) if index else 0]
        replicas = [pod for pod in self.pods() if pod.service in GPU_OF and pod.namespace == namespace]
        if not replicas:
            handler.send_error(503)
            return
        number = next(self._numbers)
        pod = replicas[number % len(replicas)]
        began = time.time()
        pod.running += 1
        pod.asked_at.append(began)
        try:
            time.sleep(2 * self.delay_s(pod))
            tokens = self._answer(handler, body, pod)
        finally:
            pod.running -= 1
        self._record(handler, pod, number, began, time.time(), tokens)

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], pod: Pod) -> int:
        tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 8)
        slowness = self.slowness(pod)
        time.sleep(FIRST_TOKEN_S * slowness)
        usage = {"prompt_tokens": 7, "completion_tokens": tokens}
        if not body.get("stream"):
            time.sleep(tokens * TOKEN_S * slowness)
            answer = json.dumps({"choices": [{"text": "x" * tokens}], "usage": usage}).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
            return tokens
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(tokens):
            time.sleep(TOKEN_S * slowness)
            choice = {"delta": {"content": "x"}} if "messages" in body else {"text": "x"}
            _chunk(handler, f"data: {json.dumps({'choices': [choice]})}\n\n")
        _chunk(handler, f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n")
        _chunk(handler, "data: [DONE]\n\n")
        handler.wfile.write(b"0\r\n\r\n")
        return tokens

    def _record(
        self, handler: BaseHTTPRequestHandler, pod: Pod, number: int, began: float, ended: float, tokens: int
    ) -> None:
        """The spans of NGINX, of Ray Serve and of vLLM, and the lines in two logs."""
        parent = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-..", handler.headers.get("traceparent", ""))
        trace = parent[1] if parent else f"{number + 1:032x}"
        mark = f"{number + 1:08x}"
        spans = [
            ("service.name", "nginx-proxy", "POST /v1", f"{mark}00000001", parent[2] if parent else "", 0.0),
            ("k8s.pod.name", pod.name, "proxy_http_request", f"{mark}00000002", f"{mark}00000001", 0.001),
            ("k8s.pod.name", pod.name, "llm_request", f"{mark}00000003", f"{mark}00000002", 0.002),
        ]
        lines = [_span(trace, pod.namespace, *span[:5], began + span[5], ended - span[5]) for span in spans]
        access = {
            "time": round(ended, 3),
            "request_id": handler.headers.get("x-request-id", ""),
            "traceparent": handler.headers.get("traceparent", ""),
            "method": "POST",
            "uri": handler.path,
            "status": 200,
            "request_time": round(ended - began, 3),
            "upstream_response_time": f"{ended - began:.3f}",
            "span_id": f"{mark}00000001",
        }
        with self._lock:
            self.spans.files["spans.jsonl"] += b"".join(lines)
            self.spans.modified_s["spans.jsonl"] = time.time() + 1
            self.logs.setdefault((pod.namespace, "nginx-proxy"), []).append(
                (time.time_ns(), json.dumps(access, separators=(",", ":")))
            )
            stamp = time.strftime("%m-%d %H:%M:%S", time.gmtime())
            line = f"INFO {stamp} [engine.py:1] finished, {tokens} tokens"
            self.logs.setdefault((pod.namespace, pod.service), []).append((time.time_ns(), line))

    def loki(self, request: Request) -> Response:
        if self.loki_failures > 0:
            self.loki_failures -= 1
            return Response(b"oops", 500)
        with self._lock:
            names = {(pod.namespace, pod.service): pod.name for pod in self.pods()}
            streams = [
                ({"namespace": place[0], "service": place[1], "pod": names.get(place, place[1])}, list(lines))
                for place, lines in self.logs.items()
            ]
        return LokiEmulator(streams)(request)


def free_ports(hosts: tuple[str, ...], number: int = 4) -> tuple[int, ...]:
    """Ports that are free on each of these addresses of this machine."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < number:
            first = held.enter_context(socket.socket())
            first.bind((hosts[0], 0))
            port = first.getsockname()[1]
            try:
                for host in hosts[1:]:
                    held.enter_context(socket.socket()).bind((host, port))
            except OSError:
                continue
            found.append(port)
        return tuple(found)


@contextmanager
def live_stack(
    directory: Path,
    namespaces: tuple[str, ...] = ("rcarena",),
    host: str = "127.0.0.1",
    ports: tuple[int, ...] | None = None,
) -> Iterator[LiveStack]:
    """A cluster with one GPU node that is ready for ``rcarena deploy up``, with all telemetry.

    With several ``namespaces`` the gateway of each is below its number (``gateway_url/0``). ``host``, ``ports``: of
    gateway, Loki, spans and Prometheus.
    """
    gateway, loki, spans, prometheus = ports or free_ports((host,))
    with ExitStack() as held:
        cluster = held.enter_context(EmulatedCluster(namespaces[0]))
        cluster.add_namespace("rcarena-telemetry")
        cluster.add_node(NODE, gpus=2 * len(namespaces))
        mesh = ChaosMeshController()
        for controller in (DeploymentController(), RayServiceController(), Kubelet(), mesh):
            cluster.add_controller(controller)
        agent = held.enter_context(EmulatedNodeAgent(cluster, directory / "node"))
        agent.machine.set(gpus={gpu: fake_nvidia_smi.gpu(FULL_POWER_W) for gpu in (GPU, OTHER_GPU)})
        stack = LiveStack(cluster, mesh, agent, namespaces)
        stopped = threading.Event()
        thread = threading.Thread(target=stack.live_on, args=(stopped,), daemon=True)
        thread.start()
        held.callback(thread.join)
        held.callback(stopped.set)
        stack.gateway_url = held.enter_context(_gateway(stack, host, gateway))
        stack.loki_url = held.enter_context(serving(stack.loki, host, loki))
        stack.spans_url = held.enter_context(serving(stack.spans, host, spans))
        telemetry_url = held.enter_context(serving(stack.telemetry))
        stack.prometheus_targets = telemetry_url.removeprefix("http://")
        stack.prometheus_url = held.enter_context(_prometheus(directory, telemetry_url, host, prometheus))
        yield stack


@contextmanager
def _gateway(stack: LiveStack, host: str, port: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            stack.serve(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _prometheus(directory: Path, telemetry_url: str, address: str, port: int) -> Iterator[str]:
    """A real one that scrapes every second."""
    assert shutil.which("prometheus"), "prometheus is not installed"
    host = telemetry_url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "cluster",
                "honor_labels": True,
                "metrics_path": "/cluster",
                "static_configs": [{"targets": [host]}],
            },
            {
                "job_name": "rcarena/ray",
                "scrape_timeout": "1s",
                "http_sd_configs": [{"url": f"{telemetry_url}/targets", "refresh_interval": "1s"}],
            },
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    command += [f"--web.listen-address={address}:{port}", "--log.level=error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://{address}:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "Prometheus did not become ready"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def _page(text: str) -> Response:
    return Response(text.encode(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _chunk(handler: BaseHTTPRequestHandler, text: str) -> None:
    data = text.encode()
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
    handler.wfile.flush()


def _span(
    trace: str, namespace: str, key: str, owner: str, name: str, span_id: str, parent: str, began: float, ended: float
) -> bytes:
    span = {
        "traceId": trace,
        "spanId": span_id,
        "parentSpanId": parent,
        "name": name,
        "kind": 2,
        "startTimeUnixNano": str(round(began * 1e9)),
        "endTimeUnixNano": str(round(ended * 1e9)),
        "attributes": [],
    }
    named = {key: owner, "k8s.namespace.name": namespace}
    resource = {"attributes": [{"key": each, "value": {"stringValue": value}} for each, value in named.items()]}
    document = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    return json.dumps(document).encode() + b"\n"
