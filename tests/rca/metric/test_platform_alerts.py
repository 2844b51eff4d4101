from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.rca.context import Context, ServiceFacts
from tasks.rca.metric import platform_alerts as module
from tasks.rca.metric.platform_alerts import ALERTS, platform_alerts
from tasks.rca.view import CaseView
from tests.rca.views import view_of

INFO, WARNING, CRITICAL = 1, 100, 10_000
CALM = {
    "cpu_throttled": 0.0, "restarts_rate": 0.0, "pods_ready": 1.0, "kv_cache_usage": 0.5, "requests_waiting": 2.0,
    "preemptions_rate": 0.0, "accelerator_utilization": 0.8, "gpu_power_violation": 0.0, "gpu_thermal_violation": 0.0,
    "gpu_last_xid": 0.0,
}  # fmt: skip


def alerts(view: CaseView, **parameters: Any) -> dict[str, float]:
    return dict(platform_alerts(view, np.random.default_rng(0), **parameters).services)


def changed(metric: str, *after: float, before: float | None = None) -> CaseView:
    """Services a and b are calm for five rows; then ``metric`` of b has the values ``after``, one a second."""
    calm = CALM.get(metric, 0.0) if before is None else before
    columns = {(service, name): [value] * (5 + len(after)) for service in "ab" for name, value in CALM.items()}
    columns["a", metric] = [calm] * (5 + len(after))
    columns["b", metric] = [calm] * 5 + list(after)
    return view_of(columns, normal_rows=5)


@pytest.mark.parametrize(
    ("metric", "at_the_threshold", "beyond", "score"),
    [
        ("cpu_throttled", 0.25, 0.26, INFO),
        ("restarts_rate", 0.0, 0.5, WARNING),
        ("pods_ready", 1.0, 0.0, WARNING),
        ("kv_cache_usage", 0.90, 0.91, WARNING),
        ("requests_waiting", 50, 51, WARNING),
        ("preemptions_rate", 1.0, 1.1, WARNING),
        ("accelerator_utilization", 0.30, 0.29, WARNING),
        ("gpu_power_violation", 0.0, 0.01, WARNING),
        ("gpu_thermal_violation", 0.0, 0.01, WARNING),
        ("gpu_last_xid", 0.0, 79, CRITICAL),
    ],
)
def test_each_rule_fires_beyond_its_threshold_only(
    metric: str, at_the_threshold: float, beyond: float, score: int
) -> None:
    assert alerts(changed(metric, beyond)) == {"b": score}
    assert alerts(changed(metric, at_the_threshold)) == {}


def test_memory_counts_against_the_limit_that_is_recorded_or_known() -> None:
    view = changed("memory_working_set", 90.0, before=50.0)
    assert alerts(view) == {}
    limited = replace(view, context=Context(services={"b": ServiceFacts(memory_bytes=100.0)}))
    assert alerts(limited) == {"b": WARNING}
    recorded = view.metrics.copy()
    recorded["b", "memory_limit"] = 200.0
    assert alerts(replace(limited, metrics=recorded)) == {}


def test_more_than_five_restarts_are_a_loop() -> None:
    assert alerts(changed("restarts_rate", 5, 0, 0)) == {"b": WARNING}
    assert alerts(changed("restarts_rate", 5, 1, 0)) == {"b": 2 * WARNING}


def test_a_target_is_down_while_others_are_heard() -> None:
    columns = {(service, "cpu_usage"): [1.0] * 10 for service in ("head", "a", "b")}
    columns["a", "cpu_usage"][6:9] = [np.nan] * 3
    view = view_of(columns, normal_rows=5)
    assert alerts(view) == {"a": WARNING}
    assert alerts(replace(view, roles={**view.roles, "a": "head"})) == {"a": WARNING + CRITICAL}
    for service in ("head", "b"):
        columns[service, "cpu_usage"][6:9] = [np.nan] * 3
    assert alerts(view_of(columns, normal_rows=5)) == {}


def test_what_rang_before_as_long_tells_nothing_new() -> None:
    throttled = [0.0, 0.3, 0.3, 0.0, 0.0]
    columns = {("a", "cpu_throttled"): [*throttled, 0.3, 0.3, 0.0], ("b", "cpu_throttled"): [*throttled, 0.3, 0.3, 0.3]}
    assert alerts(view_of(columns, normal_rows=5)) == {"b": INFO}


def test_the_pending_time_of_the_rules_if_asked_for() -> None:
    assert alerts(changed("gpu_last_xid", 79), pending="kept") == {"b": CRITICAL}
    view = changed("gpu_thermal_violation", *[0.5] * 179)
    assert alerts(view, pending="kept") == {}
    assert alerts(changed("gpu_thermal_violation", *[0.5] * 180), pending="kept") == {"b": WARNING}
    broken = changed("gpu_thermal_violation", *[0.5] * 100, 0.0, *[0.5] * 100)
    assert alerts(broken, pending="kept") == {}


def test_one_severe_alert_outranks_many_that_are_not() -> None:
    view = changed("gpu_last_xid", 79)
    metrics = view.metrics.copy()
    for metric, bad in (("pods_ready", 0), ("kv_cache_usage", 1), ("requests_waiting", 99), ("preemptions_rate", 9)):
        metrics.loc[metrics.index[-1], ("a", metric)] = bad
    found = alerts(replace(view, metrics=metrics))
    assert found == {"b": CRITICAL, "a": 4 * WARNING}


def test_the_table_of_the_docstring_has_the_rules() -> None:
    text = module.__doc__ or ""
    for alert in ALERTS:
        pending = f"{alert.pending_s / 60:.0f} min" if alert.pending_s else "0"
        assert re.search(rf"^{alert.name} +{alert.metric.name} .* {pending} +{alert.severity} ", text, re.MULTILINE)
