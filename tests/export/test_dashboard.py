"""The Grafana dashboard of a stack: its model, and that Prometheus takes every query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.export.base import TelemetrySources
from tasks.export.dashboard import COLOURS, UNITS, Ask, dashboard, expression_of, injection_annotation, provisioning
from tasks.export.queries.metrics import METRIC_MAP, SPECS
from tasks.export.queries.promql import LabelScope
from tasks.export.sources.labelled import SeriesOwner
from tasks.export.sources.prometheus import PrometheusClient
from tasks.metrics import METRICS
from tasks.params import ExportParams

EXPORT = ExportParams(step_s=5, rate_window_s=20)
EVERYTHING = {name for spec in METRIC_MAP for variant in spec.variants for name in variant.series}
OWNERS = (
    SeriesOwner(("vllm-0", "vllm-1"), {"namespace": "serving", "pod": "~vllm-.*"}, "pod"),
    SeriesOwner(("edge",), {"instance": "edge:9113"}),
)
STACKS = {
    "local": TelemetrySources(prometheus_url="http://p"),
    "cluster": TelemetrySources(prometheus_url="http://p", namespace="rcarena"),
    "attached": TelemetrySources(prometheus_url="http://p", owners=OWNERS),
}


LABELS = ("namespace", "pod", "instance", "service", "exported_namespace", "exported_pod")


def _another(expression: str) -> list[dict[str, str]]:
    """Answers every expression for a service of its own, so that none is left out."""
    return [dict.fromkeys(LABELS, expression)]


def _board(stack: str, series: Any = EVERYTHING, ask: Ask = _another) -> dict[str, Any]:
    return dashboard("x", STACKS[stack], EXPORT, series, ask)


@pytest.mark.parametrize("stack", STACKS)
def test_every_panel_has_its_place_and_its_queries(stack: str) -> None:
    board = _board(stack)
    panels = board["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    squares = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(squares) == len(set(squares)), "panels overlap"
    assert max(x for x, _ in squares) < 24
    charts = [panel for panel in panels if panel["type"] == "timeseries"]
    assert {panel["title"] for panel in charts} <= set(METRICS)
    for panel in charts:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)) > 0
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert "$" not in "".join(target["expr"] for target in panel["targets"])
    assert [each["target"]["tags"] for each in board["annotations"]["list"]] == [
        ["rcarena", "injection", "x"],
        ["rcarena", "diagnosis", "x"],
    ]
    assert (board["uid"], board["title"]) == ("rcarena-x", "RCArena: x")


def test_a_metric_without_series_has_no_panel() -> None:
    board = _board(
        "attached", {"vllm:num_requests_running"}, lambda text: [] if "exported_" in text else _another(text)
    )
    panels = {panel["title"]: panel for panel in board["panels"] if panel["type"] != "row"}
    assert set(panels) == {"requests_running", "scrape_success"}
    assert [(each["expr"], each["legendFormat"]) for each in panels["requests_running"]["targets"]] == [
        ('sum by (namespace, pod) (vllm:num_requests_running{namespace="serving",pod=~"vllm-.*"})', "{{pod}}"),
        ('sum by (instance) (vllm:num_requests_running{instance="edge:9113"})', "{{instance}}"),
    ]
    assert _board("attached", set())["panels"] == []
    assert _board("attached", ask=lambda _: [])["panels"] == []


@pytest.mark.parametrize(
    ("pods_of_nodes", "shown"), [(("vllm-0", "head"), ("container_", "ray_node_")), (("vllm-0",), ("container_",))]
)
def test_the_first_variant_that_answers_for_a_service_shows_it(
    pods_of_nodes: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    series = {"container_memory_working_set_bytes", "ray_node_mem_used"}

    def ask(expression: str) -> list[dict[str, str]]:
        if "by (namespace, pod)" not in expression and "by (namespace, pod, " not in expression:
            return []
        pods = pods_of_nodes if "ray_node_" in expression else ("vllm-0", "vllm-1")
        return [{"namespace": "serving", "pod": pod} for pod in pods]

    board = _board("attached", series, ask)
    (panel,) = (each for each in board["panels"] if each["title"] == "memory_working_set")
    (target,) = panel["targets"]
    parts = target["expr"].split(" or ")
    assert len(parts) == len(shown)
    assert all(name in part for name, part in zip(shown, parts, strict=True))


def _colours_of(names: list[str]) -> dict[str, set[str]]:
    board = _board("local", ask=lambda text: [{"service": name} for name in names] if "max" not in text else [])
    found: dict[str, set[str]] = {}
    for panel in board["panels"]:
        for each in panel.get("fieldConfig", {}).get("overrides", ()):
            (colour,) = (item["value"]["fixedColor"] for item in each["properties"])
            found.setdefault(each["matcher"]["options"], set()).add(colour)
    return found


def test_a_service_has_one_colour_in_all_panels_and_no_other_has_it() -> None:
    names = [f"replica-{number}" for number in range(len(COLOURS))]
    found = _colours_of(names)
    assert found.keys() == set(names)
    assert sorted(colour for colours in found.values() for colour in colours) == sorted(COLOURS)
    assert _colours_of([*names, "one-more"]) == {}


def test_owners_with_the_same_labels_share_a_query() -> None:
    owners = (SeriesOwner(("a",), {"service": "a"}), SeriesOwner(("b-0", "b-1"), {"service": "~b-."}, "service"))
    sources = TelemetrySources(prometheus_url="http://p", owners=owners)
    board = dashboard("x", sources, EXPORT, {"vllm:num_requests_running"}, _another)
    (panel,) = (each for each in board["panels"] if each["title"] == "requests_running")
    assert [each["expr"] for each in panel["targets"]] == [
        'sum by (service) (vllm:num_requests_running{service=~"a|b-."})'
    ]


@pytest.mark.parametrize("stack", STACKS)
def test_prometheus_takes_every_query(stack: str, start_prometheus: Callable[..., str]) -> None:
    expressions = [target["expr"] for panel in _board(stack)["panels"] for target in panel.get("targets", ())]
    with PrometheusClient(start_prometheus()) as client:
        for expression in expressions:
            assert client.instant(expression) == []


def test_quantiles_divisors_and_scales_are_part_of_the_expression() -> None:
    scope = LabelScope(("pod",), 'pod="p"')
    latency = next(v for v in SPECS["latency_p90"].variants if v.source == "envoy")
    assert expression_of(latency, 20, None, scope) == (
        "(histogram_quantile(0.9, sum by (le, pod) (rate(envoy_http_downstream_rq_time_bucket"
        '{pod="p"}[20000ms])))) * 0.001'
    )
    ttft = next(v for v in SPECS["ttft_mean"].variants if v.join == "labels")
    assert ") / (" in expression_of(ttft, 20, None, scope)


def test_units_are_those_of_metrics() -> None:
    assert set(UNITS) <= {metric.unit for metric in METRICS.values()}


def test_provisioning_names_folder_and_source() -> None:
    files = provisioning("/boards", "x", "http://p:9090", 15)
    assert files["dashboards/rcarena.yaml"]["providers"][0]["options"] == {"path": "/boards"}
    source = files["datasources/rcarena.yaml"]["datasources"][0]
    assert (source["url"], source["jsonData"]) == ("http://p:9090", {"timeInterval": "15s"})
    (variable,) = _board("local")["templating"]["list"]
    assert variable["current"] == {"selected": True, "text": source["name"], "value": source["uid"]}


def test_an_injection_is_found_again_by_its_tags() -> None:
    body = injection_annotation("x", "case-1", 1, 2, "network-delay", "vllm-0", "effective")
    assert body["tags"] == ["rcarena", "injection", "x", "case-1", "vllm-0: network-delay"]
    assert body["text"] == "network-delay on vllm-0 (effective)"
