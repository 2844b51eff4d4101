"""The vocabulary of metrics: each name once, and what the export and the docs say of it agrees."""

from __future__ import annotations

from typing import get_args

import pytest

from tasks import metrics
from tasks.export.queries.metrics import METRIC_MAP
from tasks.export.queries.promql import MetricSpec, Variant
from tasks.export.sources.placement import Units
from tasks.inject.catalogue import list_fault_kinds
from tasks.metrics import IMPORTED, METRICS, Metric
from tasks.stack import ALL_ROLES

CONSTANTS = {name: value for name, value in vars(metrics).items() if isinstance(value, Metric)}
SETTINGS: list[tuple[Units, bool]] = [(units, gpus) for units in get_args(Units) for gpus in (True, False)]


def test_each_metric_has_one_name_and_one_constant() -> None:
    assert {name: metric.name.upper() for name, metric in CONSTANTS.items()} == {name: name for name in CONSTANTS}
    assert list(CONSTANTS.values()) == [*METRICS.values(), *IMPORTED.values()]


def test_the_export_fills_every_canonical_metric_where_it_is_expected() -> None:
    expected = {
        spec.metric: frozenset().union(*(spec.roles_of(units, gpus) for units, gpus in SETTINGS)) for spec in METRIC_MAP
    }
    assert expected == {metric: metric.roles for metric in METRICS.values()}


def test_a_question_for_a_role_that_is_not_expected_to_have_the_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="kv_cache_usage: not expected of gateway, head"):
        MetricSpec(metrics.KV_CACHE_USAGE, (Variant("vllm", "x{}", ALL_ROLES),))


def test_faults_show_in_metrics_of_the_services_they_act_on() -> None:
    for fault in list_fault_kinds():
        assert all(fault.roles <= metric.roles for metric in fault.metrics), fault.kind
