"""Canonical metrics from Prometheus."""

from __future__ import annotations

from collections import Counter

from tasks.export.base import ExportContext, ExportError, Sink, exporter
from tasks.export.metric_map import METRIC_MAP, MetricSpec
from tasks.export.prometheus import PrometheusClient, PrometheusError, metrics_table

TOLERATED_GAP = 0.05
"""Share of the grid that may lack samples before a series is called incomplete."""


@exporter("prometheus", "metrics")
def export_prometheus_metrics(context: ExportContext, sink: Sink) -> list[str]:
    """What the spans did not yield: one query per canonical metric and variant until every service has answered.

    Raises:
        ExportError: Prometheus does not answer or refuses a query.
    """
    url = context.sources.prometheus_url
    if url is None:
        return ["the stack has no Prometheus"]
    problems = []
    try:
        with PrometheusClient(url, lookback_s=context.params.rate_window_s) as client:
            for spec in METRIC_MAP:
                problems += _export_metric(client, spec, context, sink)
    except PrometheusError as error:
        raise ExportError(f"Prometheus: {error}") from error
    return problems


def _export_metric(client: PrometheusClient, spec: MetricSpec, context: ExportContext, sink: Sink) -> list[str]:
    """Write the samples of one metric and return what is missing of it."""
    expected: dict[str, None] = {}
    samples = Counter[str]()
    for variant in spec.variants:
        if context.stack.backend not in variant.backends:
            continue
        wanted = [s for s, r in context.roles.items() if r in variant.roles and (spec.name, s) not in context.derived]
        expected |= dict.fromkeys(wanted)
        silent = {service for service in wanted if not samples[service]}
        if not silent:
            continue
        for chunk in client.query_range(variant.query(context.params.rate_window_s), context.grid):
            series = [item for item in chunk if item.labels.get("service") in silent]
            sink.write(metrics_table(series, spec.name, spec.unit, variant.source))
            samples.update({item.labels["service"]: len(item.values) for item in series})
    steps = context.grid.steps
    return [
        f"no sample of {spec.name} for {service} at {steps - samples[service]} of {steps} steps"
        for service in expected
        if steps - samples[service] > TOLERATED_GAP * steps
    ]
