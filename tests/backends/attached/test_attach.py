"""``rcarena attach`` recognises what serves models, changes nothing, and proposes parameters that work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.attached import families
from tests.backends.attached.deployments import DEPLOYMENTS, Deployment, pod, put_all
from tests.backends.attached.families import SAMPLES, STEP_S, Family, openmetrics
from tests.command import rcarena_here
from tests.export.emulators import Response, serving
from tests.export.trace_servers.emulators import Span, TempoEmulator
from tests.kubernetes.cluster import EmulatedCluster

Attach = Callable[..., dict[str, Any]]


@pytest.fixture
def attach(tmp_path: Path) -> Attach:
    """Runs `rcarena attach --json`, then checks the file that it proposes."""

    def run(*words: str) -> dict[str, Any]:
        file = tmp_path / "attached.yaml"
        done = rcarena_here("attach", *words, "--out", str(file), "--json")
        assert done.exit_code == 0, done.output
        checked = rcarena_here("params", "check", "--params", str(file))
        assert checked.exit_code == 0, checked.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def recent(samples: list[tuple[Family, dict[str, str], float]]) -> str:
    """Samples of the two minutes until now."""
    return openmetrics(samples, int(time.time()) - STEP_S * (SAMPLES - 1))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with EmulatedCluster("serving", with_namespace=True) as emulated:
        monkeypatch.setenv("KUBECONFIG", str(emulated.kubeconfig(tmp_path / "kubeconfig")))
        yield emulated


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each.kind)
def test_every_kind_of_deployment_is_recognised(
    cluster: EmulatedCluster, attach: Attach, deployment: Deployment
) -> None:
    put_all(cluster, [*deployment.objects, pod("redis-0", image="redis:8")])
    version = cluster.store.version
    found = attach("--kubernetes", "-n", "serving")
    assert cluster.store.version == version, "something was changed"
    assert {method for method, _ in cluster.requests} == {"GET"}
    assert found["recognised"] == [deployment.kind]
    services = {each["name"]: each for each in found["params"]["deploy"]["services"]}
    assert {name: (each["role"], each.get("replicas", 1)) for name, each in services.items()} == deployment.services
    assert found["params"]["deploy"].get("model") == deployment.model
    assert all("redis" not in json.dumps(each) for each in services.values())


def test_pods_and_their_series_meet(
    cluster: EmulatedCluster, attach: Attach, start_prometheus: Callable[..., str]
) -> None:
    plain = next(each for each in DEPLOYMENTS if each.kind == "plain pods")
    put_all(cluster, plain.objects)
    pods = [each["metadata"]["name"] for each in plain.objects if each["kind"] == "Pod"]
    first_token = "vllm:time_to_first_token_seconds"
    idle = replace(families.VLLM, histograms={**families.VLLM.histograms, first_token: (0, 0.1)})
    engines = [{"namespace": "serving", "pod": name} for name in pods if name.startswith("llama")]
    url = start_prometheus(
        recent([(family, labels, 1.0) for labels in engines for family in (idle, families.CADVISOR)])
    )
    found = attach("-n", "serving", "--prometheus", url)
    assert found["filled"]["requests_running"] == ["vllm:num_requests_running", ["llama-0", "llama-1", "llama-2"]]
    assert found["filled"]["cpu_usage"][0] == "container_cpu_usage_seconds_total"
    assert {"gpu_power", "ttft_mean"} <= found["lacking"].keys()
    assert found["silent"] == {"ttft_mean": [f"{first_token}_sum", f"{first_token}_count"]}
    assert found["params"]["deploy"]["scrape_interval_s"] == STEP_S
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert (verdicts["clock"], verdicts["services"]) == ("ok", "warning")


BARE = [
    (families.VLLM, {"job": "vllm", "instance": "gpu1:8000", "model_name": "llama"}, 1.0),
    (families.VLLM, {"job": "vllm", "instance": "gpu2:8000", "model_name": "llama"}, 2.0),
    (families.NODE, {"job": "node", "instance": "gpu1:9100"}, 1.0),
    (families.NODE, {"job": "node", "instance": "gpu2:9100"}, 1.0),
    (families.DCGM, {"job": "dcgm", "instance": "gpu1:9400"}, 1.0),
    (families.DCGM, {"job": "dcgm", "instance": "gpu2:9400"}, 2.0),
    (families.NODE, {"job": "node", "instance": "db:9100"}, 1.0),
    (families.NGINX, {"job": "nginx", "instance": "edge:9113"}, 1.0),
]
COMPOSE = [
    (families.VLLM, {"job": "vllm", "instance": "vllm:8000", "model_name": "llama"}, 1.0),
    (families.DOCKER, {"name": "app-vllm-1", "container_label_com_docker_compose_service": "vllm"}, 1.0),
    (families.DOCKER, {"name": "app-nginx-1", "container_label_com_docker_compose_service": "nginx"}, 1.0),
    (families.DOCKER, {"name": "app-db-1", "container_label_com_docker_compose_service": "db"}, 1.0),
]
RAY = [
    (families.VLLM_BY_RAY, {"instance": f"10.0.0.{node}:8080", "ReplicaId": replica, "model_name": "llama"}, 1.0)
    for node, replica in ((2, "a"), (2, "b"), (3, "c"))
]
LABELLED = [
    (families.VLLM_BY_RAY, {"instance": "10.0.0.2:9100", "ReplicaId": "a", "service": "ray-replicas-0"}, 1.0),
    (families.VLLM_BY_RAY, {"instance": "10.0.0.3:9100", "ReplicaId": "b", "service": "ray-replicas-1"}, 1.0),
    (families.NGINX, {"instance": "10.0.0.1:9113", "service": "nginx-proxy"}, 1.0),
    *(
        (families.DOCKER, {"instance": "10.0.0.1:9101", "service": name}, 1.0)
        for name in ("nginx-proxy", "ray-head", "ray-replicas-0", "ray-replicas-1")
    ),
]


@pytest.mark.parametrize(
    ("series", "kind", "services", "filled"),
    [
        (
            BARE,
            "bare processes",
            {"nginx": "gateway", "vllm-0": "replica", "vllm-1": "replica"},
            {"cpu_usage": 2, "gpu_power": 2},
        ),
        (COMPOSE, "Docker Compose", {"app-nginx-1": "gateway", "vllm": "replica"}, {"cpu_usage": 2}),
        (RAY, "Ray Serve", {f"vllm-{i}": "replica" for i in range(3)}, {"requests_running": 3}),
        (
            LABELLED,
            "Ray Serve",
            {"nginx": "gateway", "ray-head": "head", "vllm": "replica"},
            {"cpu_usage": 4, "requests_running": 2, "request_rate": 3},
        ),
    ],
    ids=["bare", "compose", "ray", "labelled"],
)
def test_a_stack_is_recognised_by_its_series_alone(
    attach: Attach,
    start_prometheus: Callable[..., str],
    series: list[tuple[Family, dict[str, str], float]],
    kind: str,
    services: dict[str, str],
    filled: dict[str, int],
) -> None:
    found = attach("--prometheus", start_prometheus(recent(series)))
    assert found["recognised"] == [kind]
    assert {each["name"]: each["role"] for each in found["params"]["deploy"]["services"]} == services
    assert {metric: len(found["filled"][metric][1]) for metric in filled} == filled


@pytest.mark.parametrize(
    ("services", "found"),
    [
        ([("tempo", 3200)], ("tempo", "http://tempo.monitoring.svc.cluster.local:3200")),
        (
            [("obs-tempo-distributor", 3200), ("obs-tempo-query-frontend", 3200), ("obs-tempo-ingester", 3200)],
            ("tempo", "http://obs-tempo-query-frontend.monitoring.svc.cluster.local:3200"),
        ),
        (
            [("jaeger-collector", 4317), ("jaeger-query", 80)],
            ("jaeger", "http://jaeger-query.monitoring.svc.cluster.local:80"),
        ),
        (
            [("simplest-jaeger-query", 16686)],
            ("jaeger", "http://simplest-jaeger-query.monitoring.svc.cluster.local:16686"),
        ),
        ([("temporal-frontend", 7233), ("tempo", 9999), ("jaegermeister", 80)], None),
    ],
    ids=lambda each: each[0][0] if isinstance(each, list) else "",
)
def test_a_server_of_traces_is_proposed(
    cluster: EmulatedCluster, tmp_path: Path, services: list[tuple[str, int]], found: tuple[str, str] | None
) -> None:
    cluster.put(pod("llama-0", image="vllm/vllm-openai:v0.11"))
    for name, port in services:
        metadata = {"name": name, "namespace": "monitoring"}
        cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": port}]}})
    file = tmp_path / "attached.yaml"
    done = rcarena_here("attach", "-n", "serving", "--out", str(file))
    assert done.exit_code == 0, done.output
    told = [line for line in done.output.splitlines() if line.startswith("traces: ")]
    remarked = [line for line in file.read_text().splitlines() if line.startswith("# traces may be ")]
    if found is None:
        assert (told, remarked) == ([], [])
    else:
        kind, url = found
        assert told == [f"traces: {kind} at {url}; give --traces {kind}=URL to read them"]
        assert remarked == [f'# traces may be {{kind: {kind}, url: "{url}"}} (inside the cluster).']


def test_a_server_of_traces_that_is_given_is_looked_at(attach: Attach, start_prometheus: Callable[..., str]) -> None:
    url = start_prometheus(recent(BARE))
    with serving(TempoEmulator([Span(1, 1, "gpu1", round(time.time() * 1000) - 5000)])) as tempo:
        found = attach("--prometheus", url, "--traces", f"tempo={tempo}")
    assert found["params"]["deploy"]["traces"] == {"kind": "tempo", "url": tempo}
    (check,) = [check for check in found["checks"] if check["name"] == "traces"]
    assert (check["verdict"], check["result"]) == ("ok", "Tempo: 1 of 1 services: gpu1")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--prometheus", "http://p:9090", "--traces", "http://t:3200"), "--traces: 'http://t:3200' is not KIND=URL"),
        (
            ("--prometheus", "http://p:9090", "--traces", "zipkin=http://t"),
            "--traces: kind: unknown kind 'zipkin'; allowed: files, jaeger, tempo",
        ),
        (("--prometheus", "http://p:9090", "--loki", "p:3100"), "--loki: url: "),
        ((), "--kubernetes -n NAMESPACE or --prometheus URL: one of them is needed"),
        (("--kubernetes",), "--namespace: is needed with --kubernetes"),
        (("--prometheus", "localhost:9090"), "--prometheus: "),
        (("--prometheus", "http://p:9090", "--bearer-file", "/t", "--bearer-env", "T"), "give either file or env"),
        (("--prometheus", "http://p:9090", "--user", "me"), "--user: needs --password-file or --password-env"),
    ],
)
def test_wrong_options_are_named(words: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    done = rcarena_here("attach", *words, "--out", str(tmp_path / "attached.yaml"))
    assert (done.exit_code, problem in done.stderr) == (2, True), done.output
    assert not (tmp_path / "attached.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "attached.yaml").write_text("mine")
    done = rcarena_here("attach", "--prometheus", "http://p:9090", "--out", str(tmp_path / "attached.yaml"))
    assert (done.exit_code, "exists" in done.stderr) == (2, True)
    assert (tmp_path / "attached.yaml").read_text() == "mine"


def test_where_nothing_serves_models_is_said(cluster: EmulatedCluster, tmp_path: Path) -> None:
    cluster.put(pod("redis-0", image="redis:8"))
    done = rcarena_here("attach", "-n", "serving", "--out", str(tmp_path / "attached.yaml"))
    assert done.exit_code == 1
    assert "namespace serving: nothing that serves models was found; not used: redis-0" in done.stderr


def test_refused_credentials_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_TOKEN", "hunter2")
    with serving(lambda _: Response(b"", 401)) as url:
        words = ["attach", "--prometheus", url, "--bearer-env", "PROMETHEUS_TOKEN"]
        done = rcarena_here(*words, "--out", str(tmp_path / "attached.yaml"))
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "HTTP 401: the bearer token in $PROMETHEUS_TOKEN is refused: expired, or without the right to read"
    )
    assert "hunter2" not in done.output


def test_a_user_without_a_password_is_one_line(tmp_path: Path) -> None:
    done = rcarena_here("attach", "-n", "ns", "--user", "bob", "--out", str(tmp_path / "a.yaml"))
    assert done.exit_code == 2
    assert done.output.strip() == "rcarena: --user: needs --password-file or --password-env"
