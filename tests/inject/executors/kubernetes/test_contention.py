"""Faults by pods beside the target: what the pods are, that they end, and what their programs do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes import contention, fault_pod
from tasks.inject.executors.kubernetes.fault_pod import FaultPod
from tasks.inject.recover import stack_residue, sweep
from tests.inject.gpu_stack import GPU, NODE, GpuStack, gpu_stack, put_ray_service
from tests.kubernetes.pod_security import restricted_problems
from tests.kubernetes.schemas import manifest_problems
from tests.waiting import HANG_S

GPU_KINDS = ["gpu-contention", "gpu-memory"]
FIGURES = {
    "DCGM_FI_DEV_FB_FREE": 6000.0,
    "DCGM_FI_DEV_FB_USED": 74_000.0,
    "DCGM_FI_DEV_GPU_UTIL": 40.0,
    "ray_vllm_kv_cache_usage_perc": 0.15,
}
HERE = Path(contention.__file__).parent


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuStack]:
    with gpu_stack(tmp_path_factory.mktemp("contention"), lambda: dict(FIGURES)) as running:
        yield running


@pytest.fixture
def clean(stack: GpuStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuStack]:
    monkeypatch.setattr(fault_pod, "LOOK_INTERVAL_S", 0.02)
    yield stack
    stack.cluster.behave()
    stack.prometheus.figures = lambda: dict(FIGURES)
    put_ray_service(stack.cluster, replicas=1)
    for each in pods(stack):
        stack.cluster.remove("v1", "Pod", each["metadata"]["name"])


def pods(stack: GpuStack) -> list[dict[str, Any]]:
    return stack.cluster.objects("v1", "Pod", labels="rcarena.io/injection")


def arguments(pod: dict[str, Any]) -> dict[str, str]:
    options = pod["spec"]["containers"][0]["command"][3:]
    return {name.removeprefix("--"): value for name, _, value in (each.partition("=") for each in options)}


@pytest.mark.parametrize(
    ("kind", "options"), [("gpu-contention", {"duty": "0.9"}), ("gpu-memory", {"hold-mib": "4096"})]
)
def test_a_pod_on_the_same_gpu(clean: GpuStack, kind: str, options: dict[str, str]):
    fault = clean.fault(kind)
    assert fault.refusal() is None
    fault.apply(30.2)
    (pod,) = pods(clean)
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert (spec["nodeName"], spec["runtimeClassName"], spec["restartPolicy"]) == (NODE, "nvidia", "Never")
    assert spec["activeDeadlineSeconds"] == 151
    assert container["image"] == "registry.example/ray-worker:1"
    assert {each["name"]: each["value"] for each in container["env"]}["NVIDIA_VISIBLE_DEVICES"] == GPU
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert arguments(pod) == {"seconds": "151", "ready-file": "/tmp/ready", **options}
    assert not clean.target().pods() or pod["metadata"]["name"] not in str(clean.target().pods())
    sent = {key: pod[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    assert manifest_problems(sent) == restricted_problems(spec) == []
    assert fault.alarm() is None
    (step,) = fault.undo_steps()
    assert len(step.left(fault.target)) == 1
    step.undo(fault.target)
    assert pods(clean) == step.left(fault.target) == []
    step.undo(fault.target)


def test_applying_again_keeps_the_pod(clean: GpuStack):
    clean.fault("gpu-memory").apply(30)
    clean.cluster.misbehave(method="POST", path="/pods", status=500, times=1)
    clean.fault("gpu-memory").apply(30)
    assert len(pods(clean)) == 1


@pytest.mark.parametrize(("kind", "needed"), [("gpu-contention", 1200), ("gpu-memory", 4696)])
def test_a_full_gpu_is_refused(clean: GpuStack, kind: str, needed: int):
    clean.prometheus.figures = lambda: {"DCGM_FI_DEV_FB_FREE": 900.0}
    refusal = clean.fault(kind).refusal()
    assert refusal is not None
    assert refusal.startswith(f"900 MiB are free on the GPU, {needed} MiB are needed: lower gpu_memory_utilization")


def test_a_gpu_that_telemetry_does_not_know_is_an_error(clean: GpuStack):
    clean.prometheus.figures = dict
    with pytest.raises(FaultError, match="Prometheus has no DCGM_FI_DEV_FB_FREE of its GPU"):
        clean.fault("gpu-memory").refusal()


def test_a_program_that_fails_is_named_with_its_last_words(clean: GpuStack, monkeypatch: pytest.MonkeyPatch):
    fault = clean.fault("gpu-memory")

    def fail(pod: FaultPod, count: int) -> None:
        (made,) = pods(clean)
        name = made["metadata"]["name"]
        clean.cluster.write_log(name, "Traceback\n  ...\ntorch.OutOfMemoryError: CUDA out of memory.\n")
        clean.cluster.set_status("v1", "Pod", name, {"phase": "Failed", "reason": "Error"})
        await_ready(pod, count)

    await_ready = FaultPod.await_ready
    monkeypatch.setattr(FaultPod, "await_ready", fail)
    with pytest.raises(FaultError, match=r"ended: Failed, Error: torch\.OutOfMemoryError: CUDA out of memory"):
        fault.apply(30)


def test_a_pod_that_is_never_ready_is_given_up(clean: GpuStack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fault_pod, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(fault_pod, "condition", lambda pod, kind: False)
    with pytest.raises(FaultError, match=r"is not ready within 0\.3 s: Running"):
        clean.fault("gpu-memory").apply(30)


def test_a_pod_that_ends_is_an_alarm(clean: GpuStack):
    fault = clean.fault("gpu-contention")
    fault.apply(30)
    name = pods(clean)[0]["metadata"]["name"]
    clean.cluster.write_log(name, "")
    clean.cluster.set_status("v1", "Pod", name, {"phase": "Failed", "reason": "Evicted"})
    assert fault.alarm() == "the pod of the fault has ended: Failed, Evicted"


def test_the_sweep_finds_the_pods(clean: GpuStack):
    clean.fault("gpu-contention").apply(30)
    (line,) = stack_residue(clean.runtime)
    assert line.startswith("ray-replicas-1: pod fault-case-3-0-")
    done, failures = sweep(clean.runtime)
    assert (len(done), failures, pods(clean)) == (1, [], [])


def test_the_criteria(clean: GpuStack):
    memory = clean.fault("gpu-memory")
    assert memory.shows_effect(74_000, 77_000)
    assert not memory.shows_effect(74_000, 75_000)
    assert next(sample.value for sample in memory.probe().tick()) == 74_000
    contention = clean.fault("gpu-contention")
    assert contention.probe().name == "utilisation of the GPU"
    clean.prometheus.figures = lambda: {**FIGURES, "DCGM_FI_PROF_SM_ACTIVE": 0.3}
    probe = clean.fault("gpu-contention").probe()
    assert (probe.name, next(sample.value for sample in probe.tick())) == ("SM activity of the GPU", 30)
    squeeze = clean.fault("kv-cache-squeeze")
    assert next(sample.value for sample in squeeze.probe().tick()) == 15
    assert squeeze.shows_effect(15, 60)


def test_a_squeeze_goes_through_the_gateway_of_a_stack_with_one_replica(clean: GpuStack):
    fault = clean.fault("kv-cache-squeeze", concurrency=4)
    assert fault.refusal() is None
    fault.apply(30)
    (pod,) = pods(clean)
    assert arguments(pod) == {
        "seconds": "150",
        "ready-file": "/tmp/ready",
        "url": "http://nginx-proxy.rcarena.svc.cluster.local:8080",
        "concurrency": "4",
        "prompt-words": "3000",
        "output-tokens": "500",
    }
    assert restricted_problems(pod["spec"]) == []
    assert "runtimeClassName" not in pod["spec"]
    assert "env" not in pod["spec"]["containers"][0]


def test_a_squeeze_cannot_be_aimed_behind_the_router(clean: GpuStack):
    put_ray_service(clean.cluster, replicas=3)
    assert clean.fault("kv-cache-squeeze").refusal() == (
        "requests cannot be aimed at ray-replicas-1: Ray Serve's router spreads them over all replicas; "
        "use a stack with one replica (deploy.replicas: 1)"
    )


def test_a_replica_with_a_route_of_its_own_can_be_aimed_at(clean: GpuStack):
    put_ray_service(clean.cluster, replicas=2, routes=("/ray-replicas-0", "/ray-replicas-1"))
    fault = clean.fault("kv-cache-squeeze")
    assert fault.refusal() is None
    assert fault.url() == "http://ray-serve.rcarena.svc.cluster.local:8000/ray-replicas-1"


@pytest.mark.parametrize("program", ["gpu_burner.py", "prompt_flood.py"])
def test_programs_of_pods_need_nothing_of_ours(program: str):
    tree = ast.parse((HERE / program).read_text())
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported <= set(sys.stdlib_module_names) | {"torch"}
    assert len((HERE / program).read_bytes()) < 32_768


class Engine:
    """Answers like an OpenAI-compatible server; ``status`` other than 200 refuses prompts."""

    def __init__(self) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.status = 200
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps({"data": [{"id": "toy"}]}).encode())

            def do_POST(self) -> None:
                engine.prompts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(engine.status, b'data: {"choices": []}\n\ndata: [DONE]\n\n')

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


def flood(engine: Engine, ready: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    options = {"url": engine.url, "seconds": seconds, "concurrency": 3, "prompt-words": 40, "output-tokens": 7}
    command = [sys.executable, "-c", (HERE / "prompt_flood.py").read_text(), f"--ready-file={ready}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_the_flood_sends_long_unshared_prompts_and_ends_by_itself(tmp_path: Path):
    engine = Engine()
    began = time.monotonic()
    done = flood(engine, tmp_path / "ready", 0.6)
    engine.server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began >= 0.6
    assert (tmp_path / "ready").exists()
    first = engine.prompts[0]
    assert (first["model"], first["max_tokens"], first["ignore_eos"]) == ("toy", 7, True)
    assert {len(each["prompt"].split()) for each in engine.prompts} == {40}
    assert len({each["prompt"] for each in engine.prompts}) == len(engine.prompts) >= 3


def test_the_flood_ends_when_its_prompts_are_refused(tmp_path: Path):
    engine = Engine()
    engine.status = 400
    done = flood(engine, tmp_path / "ready", 10 * HANG_S)
    engine.server.shutdown()
    assert done.returncode == 1
    assert done.stderr.startswith("HTTP 400: data:")
    assert not (tmp_path / "ready").exists()
