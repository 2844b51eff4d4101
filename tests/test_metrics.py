"""The vocabulary of metrics: each name once, and what the export and the docs say of it agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks import metrics
from tasks.export.questions.metrics import METRIC_MAP
from tasks.export.questions.promql import MetricSpec, Variant
from tasks.inject.catalogue import list_fault_kinds
from tasks.metrics import IMPORTED, METRICS, Metric

CONSTANTS = {name: value for name, value in vars(metrics).items() if isinstance(value, Metric)}
SETTINGS = [(backend, gpus) for backend in ("local", "kubernetes") for gpus in (True, False)]
DOCS = Path(__file__).parents[1] / "docs/telemetry.md"
ROLES = {
    "all": metrics.ALL_ROLES,
    "replica": metrics.REPLICA,
    "head": metrics.HEAD,
    "head, replica": metrics.HEAD | metrics.REPLICA,
}


def test_each_metric_has_one_name_and_one_constant() -> None:
    assert {name: metric.name.upper() for name, metric in CONSTANTS.items()} == {name: name for name in CONSTANTS}
    assert list(CONSTANTS.values()) == [*METRICS.values(), *IMPORTED.values()]


def test_the_export_fills_every_canonical_metric_where_it_is_expected() -> None:
    expected = {
        spec.metric: frozenset().union(*(spec.roles_of(backend, gpus) for backend, gpus in SETTINGS))
        for spec in METRIC_MAP
    }
    assert expected == {metric: metric.roles for metric in METRICS.values()}


def test_a_question_for_a_role_that_is_not_expected_to_have_the_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="kv_cache_usage: not expected of gateway, head"):
        MetricSpec(metrics.KV_CACHE_USAGE, (Variant("vllm", "x{}", metrics.ALL_ROLES),))


def test_faults_show_in_metrics_of_the_services_they_act_on() -> None:
    for fault in list_fault_kinds():
        assert all(fault.roles <= metric.roles for metric in fault.metrics), fault.kind


def test_the_table_in_the_docs_says_what_the_vocabulary_and_the_export_say() -> None:
    specs = {spec.name: spec for spec in METRIC_MAP}
    documented = []
    for line in re.findall(r"^\| `.*", _section("Canonical metrics"), re.MULTILINE):
        names, unit, profile, services, local, cluster = (cell.strip() for cell in line.split("|")[1:-1])
        for name in re.findall(r"`(\w+)`", names):
            metric = METRICS[name]
            documented.append(name)
            assert (metric.unit, metric.profile, metric.roles) == (unit, profile, ROLES[services]), name
            assert _sources(specs[name], "local") == _named(local), name
            assert _named(local if cluster == "the same" else cluster) <= _sources(specs[name], "kubernetes"), name
    assert sorted(documented) == sorted(METRICS)


def _section(title: str) -> str:
    return DOCS.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def _named(cell: str) -> set[str]:
    """The sources that a cell of the table names."""
    return set(re.findall(r"`(\w+)`", cell)) | ({"spans"} if "spans" in cell else set())


def _sources(spec: MetricSpec, backend: str) -> set[str]:
    variants = {variant.source for gpus in (True, False) for variant in spec.variants_of(backend, gpus)}
    return variants | ({"spans"} if spec.span_roles else set())
