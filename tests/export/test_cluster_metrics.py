"""Metrics of a cluster on a real Prometheus, filled with series as cAdvisor, kube-state-metrics, DCGM, Istio and Ray
export them. The pod of ray-replicas-0, which has two GPUs, is replaced half-way; DCGM knows no pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.case import Service, Stack
from tasks.deploy.local.params import LocalDeployParams
from tasks.export.base import ExportContext, Sink, TelemetrySources
from tasks.export.exporter import check_metrics, check_series
from tasks.export.queries.metrics import SPECS, absent_metrics, explain_missing
from tasks.export.signals.prometheus_metrics import _by_service, export_prometheus_metrics
from tasks.export.signals.topology import export_topology
from tasks.export.sources.placement import PodPlacement
from tasks.export.sources.prometheus import PrometheusClient
from tasks.metrics import METRICS
from tasks.params import ExportParams
from tasks.stack import Role

T0 = 1_760_000_000
LENGTH = 60
GONE, BACK = 30, 36
START = datetime.fromtimestamp(T0, UTC)
WINDOW = (START, START + timedelta(seconds=LENGTH))
ROLES: dict[str, Role] = LocalDeployParams(backend="local", replicas=2).roles()
STACK = Stack(backend="kubernetes", services=tuple(Service(name=s, role=r) for s, r in ROLES.items()))
PARAMS = ExportParams(step_s=1, rate_window_s=5)
NS = 'namespace="rcarena"'
LIVES = {
    "nginx-proxy-7f-x": ("nginx-proxy", "n1", 0, LENGTH),
    "rcarena-1-head": ("ray-head", "n1", 0, LENGTH),
    "worker-a": ("ray-replicas-0", "n1", 0, GONE),
    "worker-b": ("ray-replicas-0", "n1", BACK, LENGTH),
    "worker-c": ("ray-replicas-1", "n2", 0, LENGTH),
}
"""pod -> service, node, first and last second."""
UIDS = {pod: f"uid-{pod}" for pod in LIVES}
PODS = (
    PodPlacement("ray-replicas-0", "worker-a", uid="uid-worker-a", node="n1", gpus=("GPU-1", "GPU-2")),
    PodPlacement("ray-replicas-1", "worker-c", uid="uid-worker-c", node="n2", gpus=("GPU-3",)),
)
GPUS = {"GPU-1": 80, "GPU-2": 40, "GPU-3": 10}


class Samples:
    """OpenMetrics text, grouped by family."""

    def __init__(self) -> None:
        self._families: dict[tuple[str, str], list[str]] = {}

    def add(
        self, name: str, labels: str, value: Callable[[int], float], seconds: Iterable[int], kind: str = "gauge"
    ) -> None:
        family = name.removesuffix("_total") if kind == "counter" else name
        lines = self._families.setdefault((family, kind), [])
        lines += [f"{name}{{{labels}}} {value(i):.6f} {T0 + i}" for i in seconds]

    def text(self) -> str:
        parts = [f"# TYPE {family} {kind}\n" + "\n".join(lines) for (family, kind), lines in self._families.items()]
        return "\n".join(parts) + "\n"


def _cluster() -> Samples:
    samples = Samples()
    for pod, (service, node, first, last) in LIVES.items():
        alive = range(first - (8 if first == 0 else 0), last + 1)
        where = f'{NS},pod="{pod}"'
        _cadvisor(samples, where, alive)
        uid = f'{where},uid="{UIDS[pod]}"'
        samples.add("kube_pod_labels", f'{uid},label_app="{service}"', lambda _: 1, alive)
        samples.add("kube_pod_info", f'{uid},node="{node}",pod_ip="10.0.0.{len(pod)}"', lambda _: 1, alive)
        samples.add("kube_pod_status_phase", f'{uid},phase="Running"', lambda _: 1, alive)
        samples.add("kube_pod_status_phase", f'{uid},phase="Failed"', lambda _: 0, alive)
        samples.add("kube_pod_status_ready", f'{uid},condition="true"', lambda _: 1, alive)
        limit = f'{uid},container="main",resource="cpu"'
        samples.add("kube_pod_container_resource_limits", limit, lambda _: 4, alive)
        samples.add(
            "kube_pod_container_status_restarts_total", f'{uid},container="main"', lambda _: 0, alive, "counter"
        )
        samples.add("up", f'{where},job="rcarena/ray"', lambda _: 1, alive)
        if service.startswith("ray-replicas"):
            _engine(samples, where, alive, old=service == "ray-replicas-1")
    samples.add("kube_pod_labels", f'{NS},pod="kuberay-1",uid="z",label_app="kuberay"', lambda _: 1, range(LENGTH))
    exporter = 'namespace="gpu-operator",pod="dcgm-exporter-x"'
    for uuid, load in GPUS.items():
        gpu, always = f'UUID="{uuid}",{exporter}', range(-8, LENGTH + 1)
        samples.add("DCGM_FI_DEV_GPU_UTIL", gpu, lambda _, load=load: load, always)
        samples.add("DCGM_FI_DEV_POWER_USAGE", gpu, lambda _, load=load: 100 + load, always)
        samples.add("DCGM_FI_DEV_POWER_MGMT_LIMIT", gpu, lambda i: 700 if i < 45 else 200, always)
        samples.add("DCGM_FI_DEV_FB_USED", gpu, lambda _: 1024, always)
        samples.add("DCGM_FI_DEV_POWER_VIOLATION", gpu, lambda i: max(0, i - 45) * 0.25e9, always, "unknown")
        for event, value in (("gpu_idle", 50), ("power_cap", 2), ("sw_thermal", 1)):
            samples.add(
                "DCGM_EXP_CLOCK_EVENTS_COUNT", f'{gpu},clock_event="{event}"', lambda _, value=value: value, always
            )
    _mesh(samples)
    return samples


def _cadvisor(samples: Samples, where: str, alive: range) -> None:
    """Two containers, the pod's own cgroup, the pause container, and one container scraped twice."""
    use = {"main": 0.5, "sidecar": 0.1, "": 0.6, "POD": 0.01}
    for container, cores in use.items():
        labels = f'{where},container="{container}",id="/kubepods/{container}"'
        samples.add("container_cpu_usage_seconds_total", labels, lambda i, c=cores: c * (i + 100), alive, "counter")
        samples.add("container_memory_working_set_bytes", labels, lambda _, c=cores: c * 1e9, alive)
    again = f'{where},container="main",id="/kubepods/main",service="kubelet-2"'
    samples.add("container_cpu_usage_seconds_total", again, lambda i: 0.5 * (i + 100), alive, "counter")
    for interface, speed in (("eth0", 1000), ("net1", 100), ("lo", 9e6)):
        labels = f'{where},interface="{interface}",container=""'
        samples.add("container_network_receive_bytes_total", labels, lambda i, s=speed: s * (i + 100), alive, "counter")


def _engine(samples: Samples, where: str, alive: range, old: bool) -> None:
    labels = f'{where},WorkerId="w"'
    kv_cache = "ray_vllm:gpu_cache_usage_perc" if old else "ray_vllm_kv_cache_usage_perc"
    samples.add(kv_cache, labels, lambda _: 0.4, alive)
    samples.add("ray_vllm_num_requests_running", labels, lambda _: 3, alive)
    samples.add("ray_vllm_time_to_first_token_seconds_sum", labels, lambda i: 0.5 * i + 10, alive, "unknown")
    samples.add("ray_vllm_time_to_first_token_seconds_count", labels, lambda i: 2 * i + 40, alive, "unknown")
    for index, load in enumerate((70, 30)):
        samples.add("ray_node_gpus_utilization", f'{where},GpuIndex="{index}"', lambda _, v=load: v, alive)


def _mesh(samples: Samples) -> None:
    always = range(-8, LENGTH + 1)
    into_head = (
        f'{NS},reporter="waypoint",source_canonical_service="nginx-proxy",destination_canonical_service="ray-head"'
    )
    for code, first, rate in (("200", -8, 10), ("503", 40, 2)):
        samples.add(
            "istio_requests_total",
            f'{into_head},response_code="{code}"',
            lambda i, first=first, rate=rate: rate * (i - first + 1),
            range(first, LENGTH + 1),
            "counter",
        )
    elsewhere = into_head.replace(NS, 'namespace="other",destination_workload_namespace="other"')
    samples.add("istio_requests_total", f'{elsewhere},response_code="200"', lambda i: 99 * i + 999, always, "counter")
    for bound, share in (("100", 0.5), ("200", 0.9), ("+Inf", 1.0)):
        samples.add(
            "istio_request_duration_milliseconds_bucket",
            f'{into_head},le="{bound}"',
            lambda i, share=share: share * 10 * (i + 10),
            always,
            "unknown",
        )


@pytest.fixture
def url(start_prometheus: Callable[..., str]) -> str:
    return start_prometheus(_cluster().text(), lookback="2s")


def _context(url: str, **sources: Any) -> ExportContext:
    fields = {"pods": PODS, "namespace": "rcarena", "settle_s": 0, **sources}
    return ExportContext(TelemetrySources(prometheus_url=url, **fields), *WINDOW, PARAMS, STACK)


def _exported(context: ExportContext, tmp_path: Path) -> tuple[pd.Series, pd.DataFrame, list[str]]:
    """Values by (metric, service, second), the table, and the problems."""
    file = tmp_path / "metrics.parquet"
    with Sink("metrics", file) as sink:
        problems = export_prometheus_metrics(context, sink)
    table = pq.read_table(file).to_pandas()
    assert not table.duplicated(["time", "service", "metric"]).any()
    second = (table["time"] - pd.Timestamp(START)).dt.total_seconds().astype(int)
    index = [table["metric"].astype(str), table["service"].astype(str), second]
    return table["value"].set_axis(pd.MultiIndex.from_arrays(index)).sort_index(), table, problems


def _values(found: pd.Series, metric: str, service: str) -> np.ndarray:
    """On the whole grid, NaN where there is no sample."""
    return found[metric, service].reindex(range(LENGTH + 1)).to_numpy()


def test_a_cluster_with_a_replaced_pod(url: str, tmp_path: Path) -> None:
    context = _context(url)
    found, table, problems = _exported(context, tmp_path)

    cpu = _values(found, "cpu_usage", "ray-replicas-0")
    np.testing.assert_allclose(cpu[:GONE], 0.6, err_msg="containers only, each once")
    assert np.isnan(cpu[GONE + 3 : BACK]).all(), "no pod, no sample: not zero, and nothing lingers"
    np.testing.assert_allclose(cpu[BACK + 5 :], 0.6)
    np.testing.assert_allclose(_values(found, "cpu_usage", "nginx-proxy"), 0.6)
    memory = _values(found, "memory_working_set", "ray-replicas-0")
    np.testing.assert_allclose(memory[~np.isnan(memory)], 0.6e9)
    np.testing.assert_allclose(_values(found, "network_receive", "ray-head"), 1100)
    ready = _values(found, "pods_ready", "ray-replicas-0")
    assert ready[GONE - 1] == ready[BACK + 1] == 1
    assert np.isnan(ready[GONE + 3 : BACK]).all()
    np.testing.assert_allclose(_values(found, "cpu_limit", "ray-replicas-1"), 4)
    np.testing.assert_allclose(_values(found, "restarts_rate", "ray-head"), 0)

    gpu = _values(found, "accelerator_utilization", "ray-replicas-0")
    np.testing.assert_allclose(gpu[: GONE + 1], 0.6)
    np.testing.assert_allclose(gpu[BACK + 1 :], 0.6)
    assert np.isnan(gpu[GONE + 3 : BACK - 1]).all()
    np.testing.assert_allclose(_values(found, "accelerator_utilization", "ray-replicas-1"), 0.1)
    assert found["gpu_power", "ray-replicas-0", 10] == 320
    assert (found["gpu_power_limit", "ray-replicas-0", 10], found["gpu_power_limit", "ray-replicas-0", 50]) == (
        1400,
        400,
    )
    assert found["gpu_power_violation", "ray-replicas-1", 20] == 0
    assert found["gpu_power_violation", "ray-replicas-1", 55] == pytest.approx(0.25)
    assert found["gpu_clock_events", "ray-replicas-0", 10] == 6
    assert found["gpu_memory_used", "ray-replicas-1", 10] == 2**30
    assert "is taken to stay with ray-replicas-0" in "; ".join(problems)

    for service in ("ray-replicas-0", "ray-replicas-1"):
        assert found["kv_cache_usage", service, 20] == pytest.approx(0.4), "whatever the version calls it"
        assert found["requests_running", service, 20] == 3
        assert found["ttft_mean", service, 20] == pytest.approx(0.25)

    np.testing.assert_allclose(_values(found, "request_rate", "ray-head")[:40], 10)
    np.testing.assert_allclose(_values(found, "error_rate", "ray-head")[:40], 0, err_msg="requests, none failed")
    np.testing.assert_allclose(_values(found, "error_rate", "ray-head")[46:], 2)
    np.testing.assert_allclose(_values(found, "latency_p50", "ray-head"), 0.1)
    np.testing.assert_allclose(_values(found, "latency_p90", "ray-head"), 0.2)
    sources = table.groupby("metric", observed=True)["source"].unique()
    assert {m: set(sources[m]) for m in ("cpu_usage", "gpu_power", "latency_p50", "pods_ready")} == {
        "cpu_usage": {"cadvisor"},
        "gpu_power": {"dcgm"},
        "latency_p50": {"istio"},
        "pods_ready": {"kube_state"},
    }
    assert any(p.startswith("no sample of gpu_sm_clock for ray-replicas-0 at 61 of 61") for p in problems)


def test_dcgm_with_the_labels_of_pods_needs_no_uuids(start_prometheus: Callable[..., str], tmp_path: Path) -> None:
    samples = Samples()
    own, theirs = (
        'pod="dcgm-exporter-x",namespace="gpu-operator"',
        'exported_pod="worker-c",exported_namespace="rcarena"',
    )
    samples.add("DCGM_FI_DEV_GPU_UTIL", f'UUID="GPU-1",{own},{theirs}', lambda _: 50, range(0, 61))
    samples.add("DCGM_FI_DEV_GPU_UTIL", 'UUID="GPU-2",pod="worker-a",namespace="rcarena"', lambda _: 20, range(0, 61))
    samples.add("DCGM_FI_DEV_GPU_UTIL", 'UUID="GPU-9",pod="worker-a",namespace="other"', lambda _: 90, range(0, 61))
    pods = (PodPlacement("ray-replicas-0", "worker-a"), PodPlacement("ray-replicas-1", "worker-c"))
    found, _, _ = _exported(_context(start_prometheus(samples.text()), pods=pods), tmp_path)
    assert found["accelerator_utilization", "ray-replicas-1", 5] == 0.5
    assert found["accelerator_utilization", "ray-replicas-0", 5] == 0.2


def test_rays_own_agent_stands_in_for_dcgm_and_the_cpu_limit_for_a_gpu(url: str) -> None:
    context = _context(url)
    variants = SPECS["accelerator_utilization"].variants_of("pods", gpus=True)
    ray_node = next(v for v in variants if v.source == "ray_node")
    (limit,) = SPECS["accelerator_utilization"].variants_of("pods", gpus=False)
    with context.prometheus() as client:
        (shares,) = _by_service(client, ray_node, context)
        (used,) = _by_service(client, limit, context)
    assert {s.labels["service"]: s.values[5] for s in shares} == {
        "ray-replicas-0": pytest.approx(0.5),
        "ray-replicas-1": pytest.approx(0.5),
    }
    assert {s.labels["service"]: s.values[5] for s in used}["ray-replicas-1"] == pytest.approx(0.15)


def test_topology_has_the_calls_of_the_mesh_and_every_node(url: str, tmp_path: Path) -> None:
    moved = (PodPlacement("ray-replicas-1", "before", node="n7"), *PODS)
    context = _context(url, pods=moved)
    with Sink("topology", tmp_path / "t.parquet") as sink:
        problems = export_topology(context, sink)
    edges = pq.read_table(tmp_path / "t.parquet").to_pandas().astype(str).to_numpy().tolist()
    assert ["calls", "nginx-proxy", "ray-head"] in edges
    assert sorted(edge[2] for edge in edges if edge[:2] == ["runs_on", "ray-replicas-1"]) == ["n2", "n7"]
    assert ["runs_on", "ray-replicas-0", "n1"] in edges
    assert problems == [f"no call into or out of ray-replicas-{i} is known" for i in range(2)]


def test_what_is_missing_is_said_with_the_series_that_are_needed(url: str) -> None:
    sources = _context(url).sources
    missing = check_metrics(sources, WINDOW, PARAMS, STACK)
    assert missing["gpu_sm_clock"] == ("ray-replicas-0", "ray-replicas-1")
    assert "cpu_usage" not in missing
    lines = explain_missing(missing, "pods")
    assert "gpu_sm_clock of ray-replicas-0, ray-replicas-1: needs DCGM_FI_DEV_SM_CLOCK" in lines
    (throttled,) = (line for line in lines if line.startswith("cpu_throttled"))
    assert "container_cpu_cfs_throttled_seconds_total (kube-prometheus-stack drops it" in throttled
    absent = check_series(sources, WINDOW, PARAMS, STACK)
    assert set(absent) < set(missing)
    assert "gpu_sm_clock" in absent
    assert not {"cpu_usage", "ttft_mean", "preemptions_rate", "latency_p50"} & set(absent)
    without = absent_metrics((), ROLES, "pods", gpus=False)
    assert "accelerator_utilization" in without
    assert not any(name.startswith("gpu_") for name in without)


def test_every_metric_says_its_series_for_a_cluster() -> None:
    expected = [name for name in SPECS if METRICS[name].roles]  # the others are of attached stacks
    lines = explain_missing(dict.fromkeys(expected, ("x",)), "pods")
    assert len(lines) == len(expected)
    assert all(line.split("needs ")[1] for line in lines)
    with_versions = next(line for line in lines if line.startswith("kv_cache_usage"))
    for name in ("ray_vllm_kv_cache_usage_perc", "ray_vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"):
        assert name in with_versions


def test_a_refused_query_is_a_problem_of_its_metric_alone(url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Many-to-many matching is what a join in PromQL runs into when a pod has two series."""
    real = PrometheusClient.query_ranges
    refused = "container_memory_working_set_bytes{} * on (pod) container_memory_working_set_bytes{}"

    def query_ranges(self: PrometheusClient, queries: tuple[str, ...], grid: Any) -> Any:
        return real(self, (refused,) if "DCGM_FI_DEV_FB_USED" in queries[0] else queries, grid)

    monkeypatch.setattr(PrometheusClient, "query_ranges", query_ranges)
    found, _, problems = _exported(_context(url), tmp_path)
    (problem,) = (p for p in problems if p.startswith("gpu_memory_used by dcgm"))
    assert "HTTP 422: found duplicate series for the match group" in problem
    assert "gpu_power" in found.index.get_level_values(0)
