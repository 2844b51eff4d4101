from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tasks.deploy.local.params import LocalDeployParams
from tasks.export.queries.metrics import (
    METRIC_MAP,
    SPECS,
    expected_services,
    missing_metrics,
)
from tasks.export.queries.promql import LabelScope
from tasks.export.sources.prometheus import PrometheusClient, TimeGrid
from tasks.metrics import METRICS, is_visible

PAPER = {
    "cpu_usage": "cores",
    "memory_working_set": "bytes",
    "network_receive": "bytes/s",
    "network_transmit": "bytes/s",
    "accelerator_utilization": "ratio",
    "latency_p50": "s",
    "latency_p90": "s",
}
T0 = 1_760_000_000
STEPS = 60
WINDOW_S = 5.0
SCOPE = LabelScope(("pod",), 'pod="p"')
ROLES = LocalDeployParams(backend="local", replicas=2).roles()


def _samples(name: str, values: np.ndarray, kind: str = "counter", labels: str = "", first: int = 0) -> str:
    """OpenMetrics text of one series of ray-replicas-0, one sample a second."""
    family = name.removesuffix("_total") if kind == "counter" else name
    series = f'{name}{{service="ray-replicas-0"{labels}}}'
    lines = [f"{series} {value} {T0 + i}" for i, value in enumerate(values) if i >= first]
    return f"# TYPE {family} {kind}\n" + "\n".join(lines) + "\n"


def _answer(url: str, metric: str, source: str) -> np.ndarray:
    """Values of a metric on the grid, NaN where there is no sample."""
    variant = next(v for v in SPECS[metric].variants if v.source == source and "replica" in v.roles)
    grid = TimeGrid(T0 * 1000, 1000, STEPS)
    found = np.full(STEPS, np.nan)
    with PrometheusClient(url) as client:
        for chunk in client.query_range(variant.query(WINDOW_S), grid):
            assert [series.labels for series in chunk] == [{"service": "ray-replicas-0"}]
            found[(chunk[0].times_ns // 10**9 - T0).astype(int)] = chunk[0].values
    return found


def test_paper_profile_has_the_agreed_names_and_units() -> None:
    assert {name: metric.unit for name, metric in METRICS.items() if metric.profile == "paper"} == PAPER
    assert {name for name in METRICS if is_visible(name, "paper")} == set(PAPER)
    assert all(is_visible(name, "llm") for name in [*METRICS, "of_a_data_set"])
    assert not is_visible("of_a_data_set", "paper")


def test_names_are_unique_and_each_metric_has_a_source() -> None:
    assert len(SPECS) == len(METRIC_MAP)
    assert set(SPECS) == set(METRICS)
    assert all(spec.variants or spec.span_roles for spec in METRIC_MAP)
    queries = [
        q
        for spec in METRIC_MAP
        for v in spec.variants
        for q in v.queries(5, "n", SCOPE if v.join == "labels" else None)
    ]
    assert all("$" not in query and "{," not in query for query in queries)


def test_missing_metrics_names_metric_and_services() -> None:
    found = {(spec.name, service) for spec in METRIC_MAP for service in ROLES}
    assert missing_metrics(found, ROLES, "processes") == {}
    found -= {("ttft_mean", "ray-replicas-1"), ("cpu_usage", "nginx-proxy"), ("cpu_usage", "ray-head")}
    assert missing_metrics(found, ROLES, "processes") == {
        "ttft_mean": ("ray-replicas-1",),
        "cpu_usage": ("nginx-proxy", "ray-head"),
    }


def test_accelerator_is_the_quota_only_where_it_stands_in_for_one() -> None:
    spec = SPECS["accelerator_utilization"]
    assert expected_services(spec, ROLES, "processes") == ("ray-replicas-0", "ray-replicas-1")
    assert [v.source for v in spec.variants_of("processes")] == ["cgroup"]
    assert [v.source for v in spec.variants_of("pods")] == ["dcgm", "dcgm", "ray_node"]
    assert [v.source for v in spec.variants_of("pods", gpus=False)] == ["cadvisor"]


def test_every_query_is_valid(start_prometheus: Callable[..., str]) -> None:
    url = start_prometheus()
    with PrometheusClient(url) as client:
        for spec in METRIC_MAP:
            for variant in spec.variants:
                for query in variant.queries(2.5, "rcarena", SCOPE if variant.join == "labels" else None):
                    assert list(client.query_range(query, TimeGrid(T0 * 1000, 1000, 2))) == []


def test_known_answers(start_prometheus: Callable[..., str]) -> None:
    seconds = np.arange(STEPS, dtype=float)
    requests = np.where(seconds < 30, seconds, 30)  # one a second, then idle
    text = _samples("container_cpu_usage_seconds_total", 0.3 * seconds)
    text += _samples("container_spec_cpu_quota", np.full(STEPS, 60_000.0), "gauge")
    text += _samples("container_spec_cpu_period", np.full(STEPS, 100_000.0), "gauge")
    text += _samples("container_network_receive_packets_dropped_total", 2 * seconds)
    text += _samples("container_network_transmit_packets_dropped_total", 3 * seconds)
    text += _samples("ray_vllm_time_to_first_token_seconds_sum", 0.25 * requests, "unknown")
    text += _samples("ray_vllm_time_to_first_token_seconds_count", requests, "unknown")
    text += _samples("ray_vllm_kv_cache_usage_perc", np.where(seconds < 20, 0.2, 0.3)[:40], "gauge", ',WorkerId="a"')
    text += _samples("up", np.where(seconds < 50, 1, 0), "gauge", ',job="ray"')
    text += _samples("vllm:kv_cache_usage_perc", np.full(STEPS, 0.7), "gauge")
    text += _samples("ray_serve_replica_processing_queries", np.full(STEPS, 1.0), "gauge")
    text += _samples("ray_serve_deployment_error_counter_total", np.where(seconds < 40, 10, 20), first=20)
    url = start_prometheus(text)

    late = slice(10, 29)
    np.testing.assert_allclose(_answer(url, "cpu_usage", "cgroup")[late], 0.3)
    np.testing.assert_allclose(_answer(url, "accelerator_utilization", "cgroup")[late], 0.5)
    np.testing.assert_allclose(_answer(url, "network_dropped", "cgroup")[late], 5)
    kv_cache = _answer(url, "kv_cache_usage", "ray_vllm")
    np.testing.assert_allclose(kv_cache[:20], 0.2)
    np.testing.assert_allclose(kv_cache[20:50], 0.3, err_msg="Ray drops an unchanged gauge: the last value holds")
    assert np.isnan(kv_cache[50:]).all(), "nothing holds for a target that is down"
    np.testing.assert_allclose(_answer(url, "kv_cache_usage", "vllm"), 0.7)

    ttft = _answer(url, "ttft_mean", "ray_vllm")
    np.testing.assert_allclose(ttft[late], 0.25)
    assert np.isnan(ttft[40:]).all(), "no request, no mean"

    errors = _answer(url, "error_rate", "ray_serve")
    np.testing.assert_allclose(errors[5:20], 0)
    np.testing.assert_allclose(errors[20:25], 2, err_msg="the first increments of a counter that appears late")
    np.testing.assert_allclose(errors[25:40], 0)
    np.testing.assert_allclose(errors[40:45], 2)
    np.testing.assert_allclose(errors[45:50], 0)


@pytest.mark.parametrize("window", [1, 2.5, 60])
def test_windows_become_prometheus_durations(window: float) -> None:
    assert f"[{window * 1000:.0f}ms]" in SPECS["cpu_usage"].variants[0].query(window)
