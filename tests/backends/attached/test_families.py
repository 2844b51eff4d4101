"""A real Prometheus with series of each family fills the canonical metrics of an attached stack."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.backends import backend_of
from tasks.export.exporter import read_metrics
from tasks.export.grid import TimeGrid
from tasks.export.queries.labelled import CANDIDATES, LABELLED
from tasks.export.queries.promql import LabelScope
from tasks.export.sources.labelled import SeriesOwner, assign
from tasks.params import validated
from tasks.stack import Role
from tasks.workspace import Workspace
from tests.backends.attached import families
from tests.backends.attached.families import Family, openmetrics
from tests.backends.attached.params import attached

WINDOW = (datetime.fromtimestamp(families.T0 + 60, UTC), datetime.fromtimestamp(families.END, UTC))
ENGINE = {
    "requests_running": 3,
    "requests_waiting": 1,
    "generation_tokens_rate": 40,
    "prompt_tokens_rate": 20,
    "inter_token_latency_mean": 0.02,
    "e2e_latency_mean": 0.5,
    "queue_time_mean": 0.01,
    "request_rate": 2,
}
POD = {"namespace": "serving", "pod": "engine-0"}
FILLED: list[tuple[str, Family, Role, dict[str, str], dict[str, float]]] = [
    (
        "vllm",
        families.VLLM,
        "replica",
        POD,
        {**ENGINE, "kv_cache_usage": 0.5, "ttft_mean": 0.1, "decode_time_mean": 0.4},
    ),
    ("ray_vllm", families.VLLM_BY_RAY, "replica", {"ReplicaId": "x1"}, {**ENGINE, "kv_cache_usage": 0.5}),
    ("sglang", families.SGLANG, "replica", {"instance": "10.0.0.5:30000"}, {**ENGINE, "kv_cache_usage": 0.5}),
    ("tgi", families.TGI, "replica", {"instance": "tgi:80"}, {**ENGINE, "prefill_time_mean": 0.05, "error_rate": 0.1}),
    (
        "dcgm",
        families.DCGM,
        "replica",
        POD,
        {"accelerator_utilization": 0.6, "gpu_sm_clock": 1400, "gpu_power": 400, "gpu_memory_used": 2**30},
    ),
    (
        "cadvisor",
        families.CADVISOR,
        "replica",
        POD,
        {
            "cpu_usage": 2,
            "memory_working_set": 2e9,
            "memory_rss": 1e9,
            "network_receive": 1000,
            "network_transmit": 3000,
        },
    ),
    ("cadvisor", families.DOCKER, "gateway", {"name": "nginx-1"}, {"cpu_usage": 2, "network_receive": 1000}),
    ("node", families.NODE, "replica", {"instance": "gpu7:9100"}, {"cpu_usage": 0.7, "memory_working_set": 2e9}),
    ("process", families.PROCESS, "replica", {"instance": "10.0.0.5:8000"}, {"cpu_usage": 2, "memory_rss": 2e9}),
    ("istio", families.ISTIO, "gateway", POD, {"request_rate": 2.1, "error_rate": 0.1, "latency_p50": 0.625}),
    ("envoy", families.ENVOY, "gateway", POD, {"request_rate": 2, "error_rate": 0.1, "latency_p50": 0.625}),
    ("nginx", families.NGINX, "gateway", {"instance": "10.0.0.1:9113"}, {"request_rate": 2}),
    ("nginx", families.INGRESS_NGINX, "gateway", POD, {"request_rate": 2, "error_rate": 0.1, "latency_p50": 0.625}),
    ("vllm_router", families.ROUTER, "gateway", POD, {"request_rate": 2}),
    ("inference_gateway", families.ENDPOINT_PICKER, "gateway", POD, {"request_rate": 2, "latency_p50": 0.625}),
    (
        "kube_state",
        families.KUBE_STATE,
        "replica",
        POD,
        {"cpu_limit": 4, "memory_limit": 8e9, "pods_ready": 1, "restarts_rate": 0},
    ),
]


def test_every_family_fills_its_metrics(start_prometheus: Callable[..., str], tmp_path: Path) -> None:
    """One service per family, beside one of a stranger with other labels and twice the figures."""
    samples, services = [], []
    for number, (_, family, role, labels, _) in enumerate(FILLED):
        own = {name: f"{value}-{number}" if name != "namespace" else value for name, value in labels.items()}
        samples += [(family, own, 1.0), (family, dict.fromkeys(labels, f"other-{number}"), 2.0)]
        services.append({"name": f"s{number}", "role": role, "labels": [own]})
    url = start_prometheus(openmetrics(samples))
    rows = _read(url, tmp_path, services)
    assert not rows["service"].eq("other").any()
    last = rows.sort_values("time").groupby(["service", "metric"], observed=True)[["value", "source"]].last()
    for number, (source, _, _, _, wanted) in enumerate(FILLED):
        for metric, value in wanted.items():
            found, by = last.loc[f"s{number}", metric]
            assert (by, found) == (source, pytest.approx(value, rel=0.02)), (metric, number)


def test_what_an_exporter_says_of_other_pods_is_theirs(start_prometheus: Callable[..., str], tmp_path: Path) -> None:
    """Prometheus renames the labels of series whose target has labels of that name: dcgm-exporter's ``pod``."""
    exporter = {"namespace": "gpu", "pod": "dcgm-exporter-x"}
    renamed = {"exported_namespace": "serving", "exported_pod": "engine-0"}
    url = start_prometheus(openmetrics([(families.DCGM, {**exporter, **renamed}, 1.0), (families.VLLM, POD, 1.0)]))
    rows = _read(url, tmp_path, [{"name": "engine", "role": "replica", "labels": [POD]}])
    power = rows[rows["metric"] == "gpu_power"]
    assert set(power["service"]) == {"engine"}
    assert power["value"].to_list() == pytest.approx([400] * len(power))


def test_an_engine_that_is_gone_refuses_and_one_that_hangs_does_not(
    start_prometheus: Callable[..., str], tmp_path: Path
) -> None:
    """Both answer no more after a while; the node exporter beside them does, and its process is not theirs."""
    lines: dict[str, list[str]] = {}
    for unit, slow in (("gone", 0.001), ("hung", 4.0)):
        engine, node = f'job="vllm",instance="{unit}:8000"', f'job="node",instance="{unit}:9100"'
        for i in range(families.SAMPLES):
            at, up = families.T0 + i * families.STEP_S, i < 18
            told = {f"up{{{engine}}}": int(up), f"scrape_duration_seconds{{{engine}}}": 0.1 if up else slow}
            told |= {f"up{{{node}}}": 1, f"node_exporter_build_info{{{node}}}": 1}
            told |= {f"process_cpu_seconds_total{{{node}}}": 9 * i, f"node_netstat_Tcp_RetransSegs{{{node}}}": 10 * i}
            if up:
                told |= {f"vllm:num_requests_running{{{engine}}}": 1}
                told |= {f"process_cpu_seconds_total{{{engine}}}": families.STEP_S * i}
            for series, value in told.items():
                lines.setdefault(series.partition("{")[0], []).append(f"{series} {value} {at}")
    url = start_prometheus("".join(f"# TYPE {name} unknown\n" + "\n".join(of) + "\n" for name, of in lines.items()))
    services = [
        {"name": unit, "role": "replica", "labels": [{"instance": f"{unit}:{port}"} for port in (8000, 9100)]}
        for unit in ("gone", "hung")
    ]
    rows = _read(url, tmp_path, services)
    by_metric = rows.dropna().sort_values("time").groupby(["service", "metric"], observed=True)["value"]
    last = by_metric.last()
    assert {unit: last[unit, "scrape_success"] for unit in ("gone", "hung")} == {"gone": 0, "hung": 0}
    assert {unit: last[unit, "processes"] for unit in ("gone", "hung")} == {"gone": 0, "hung": 1}
    assert by_metric.first()["gone", "cpu_usage"] == pytest.approx(1)
    assert last["hung", "network_retransmits"] == pytest.approx(2)


def test_replicas_are_told_apart_by_a_label(start_prometheus: Callable[..., str], tmp_path: Path) -> None:
    pods = {"vllm-a": 1.0, "vllm-b": 2.0, "other": 5.0}
    samples = [(families.VLLM, {"namespace": "serving", "pod": pod}, factor) for pod, factor in pods.items()]
    url = start_prometheus(openmetrics(samples))
    service = {"name": "vllm", "role": "replica", "replicas": 2, "each": "pod"}
    rows = _read(url, tmp_path, [{**service, "labels": [{"namespace": "serving", "pod": "~vllm-.*"}]}])
    running = rows[rows["metric"] == "requests_running"].groupby("service", observed=True)["value"].last()
    assert running.to_dict() == {"vllm-0": 3, "vllm-1": 6}


def test_replicas_are_numbered_in_the_order_that_people_see() -> None:
    pods = [f"vllm-{i}" for i in range(12)]
    owner = SeriesOwner(tuple(pods), {"pod": "~vllm-.*"}, "pod")
    matches, left = assign(owner, dict.fromkeys(sorted(pods), (0, 10)), TimeGrid(0, 1000, 10))
    assert {match.labels["pod"]: match.service for match in matches} == dict(zip(pods, pods, strict=True))
    assert left == []


def test_a_replica_that_was_replaced_keeps_its_place() -> None:
    """``b`` ends and ``c`` begins; ``d`` is one too many."""
    second = 1_000_000_000
    grid = TimeGrid(0, 1000, 100)
    seen = {"a": (0, 99 * second), "b": (0, 40 * second), "c": (45 * second, 99 * second)}
    owner = SeriesOwner(("x-0", "x-1"), {}, "pod", {"b": "x-1"})
    matches, left = assign(owner, seen, grid)
    assert [(match.service, match.labels["pod"]) for match in matches] == [("x-0", "a"), ("x-1", "b"), ("x-1", "c")]
    assert (matches[1].end_ns, matches[2].start_ns) == (45 * second, 45 * second)
    assert left == []
    assert assign(owner, {**seen, "d": (50 * second, 99 * second)}, grid)[1] == ["d"]


def test_the_table_asks_for_known_names_only_once() -> None:
    rows = [(each.metric, each.series, each.kind, each.matchers, each.roles) for each in CANDIDATES]
    assert len(rows) == len(set(rows))
    assert {variant.join for variants in LABELLED.values() for variant in variants} == {"labels"}


@pytest.mark.parametrize(("window_s", "hold"), [(5, "30000ms"), (60, "60000ms"), (90.5, "90500ms")])
def test_a_gauge_of_ray_holds_for_two_scrapes(window_s: float, hold: str) -> None:
    """The rate window is never shorter than two scrapes."""
    held = [each for each in CANDIDATES if each.kind == "held"]
    asked = [query for each in held for query in each.variants[0].queries(window_s, None, LabelScope(("pod",)))]
    assert len(asked) == len(held) > 5
    assert all(f"[{hold}]" in query and "$" not in query for query in asked)


def _read(url: str, tmp_path: Path, services: list[dict[str, Any]]) -> Any:
    params = validated(attached(url, services, scrape_interval_s=families.STEP_S), "test")
    live = backend_of(params, Workspace(tmp_path / "w")).live()
    return read_metrics(live.sources(), WINDOW, params.export, live.describe(), list(LABELLED))
