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
    """One query per canonical metric and variant until every expected service has answered.

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
                problems += _problems(spec, _export_metric(client, spec, context, sink), context)
    except PrometheusError as error:
        raise ExportError(f"Prometheus: {error}") from error
    return problems


def _export_metric(client: PrometheusClient, spec: MetricSpec, context: ExportContext, sink: Sink) -> Counter[str]:
    """Write the samples of one metric and return their number per service."""
    samples = Counter[str]()
    for variant in spec.variants:
        if context.stack.backend not in variant.backends:
            continue
        open_services = {s for s, role in context.roles.items() if role in variant.roles and not samples[s]}
        if not open_services:
            continue
        answered = Counter[str]()
        for chunk in client.query_range(variant.query(context.params.rate_window_s), context.grid):
            wanted = [series for series in chunk if series.labels.get("service") in open_services]
            sink.write(metrics_table(wanted, spec.name, spec.unit, variant.source))
            for series in wanted:
                answered[series.labels["service"]] += len(series.values)
        samples += answered
    return samples


def _problems(spec: MetricSpec, samples: Counter[str], context: ExportContext) -> list[str]:
    roles = frozenset[str]().union(*(v.roles for v in spec.variants if context.stack.backend in v.backends))
    steps = context.grid.steps
    absent = {s: steps - samples[s] for s, role in context.roles.items() if role in roles}
    return [
        f"no sample of {spec.name} for {service} at {gap} of {steps} steps"
        for service, gap in absent.items()
        if gap > TOLERATED_GAP * steps
    ]
