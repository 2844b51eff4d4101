from __future__ import annotations

import pytest

from tasks.metrics import METRICS
from tasks.rca.features.golden_signals import golden_signal


@pytest.mark.parametrize(
    ("metric", "signal"),
    [
        ("cpu_usage", "saturation"),
        ("memory_working_set", "saturation"),
        ("network_receive", "saturation"),
        ("accelerator_utilization", "saturation"),
        ("latency_p90", "latency"),
        ("ttft_mean", "latency"),
        ("queue_time_mean", "latency"),
        ("inter_token_latency_mean", "latency"),
        ("requests_waiting", "saturation"),
        ("request_rate", "traffic"),
        ("generation_tokens_rate", "traffic"),
        ("error_rate", "errors"),
        ("PodSuccessRate(%)", "errors"),
        ("workload", "traffic"),
        ("unheard_of", "saturation"),
    ],
)
def test_signal_of_known_names(metric: str, signal: str) -> None:
    assert golden_signal(metric) == signal


def test_every_latency_of_the_metric_map_is_latency() -> None:
    for metric in METRICS.values():
        assert (golden_signal(metric.name) == "latency") == (metric.unit == "s"), metric.name
