"""Canonical metrics from Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.grid import TimeGrid
from tasks.export.queries.join import Row, join_buckets, join_series, ratio_of, row_series
from tasks.export.queries.metrics import METRIC_MAP, MetricSpec
from tasks.export.queries.promql import LabelScope, Variant
from tasks.export.sources.http import RefusedError
from tasks.export.sources.matrix import Series
from tasks.export.sources.placement import Placement
from tasks.export.sources.prometheus import PrometheusClient, metrics_table

TOLERATED_GAP = 0.05
"""Share of the grid that may lack samples before a series counts as incomplete."""


@exporter("prometheus", "metrics")
def export_prometheus_metrics(context: ExportContext, sink: Sink) -> list[str]:
    """Write the metrics not derived from spans: query each metric's variants until every service has answered.

    A query that Prometheus refuses is a problem of that metric; the next variant is queried.

    Raises:
        ExportError: Prometheus does not answer.
    """
    if context.sources.prometheus_url is None:
        return ["the stack has no Prometheus"]
    problems = list(context.placement_assumptions)
    with context.prometheus() as client:
        for spec in METRIC_MAP:
            problems += export_metric(client, spec, context, sink)
        sink.note(client.notes)
        return problems + client.problems


def export_metric(client: PrometheusClient, spec: MetricSpec, context: ExportContext, sink: Sink) -> list[str]:
    """Write the samples of one metric; return what is missing, one line each."""
    expected: dict[str, None] = {}
    samples = Counter[str]()
    problems = []
    for variant in spec.variants_of(context.sources.units, context.sources.gpus):
        wanted = [s for s, r in context.roles.items() if r in variant.roles and (spec.name, s) not in context.derived]
        if not variant.optional:
            expected |= dict.fromkeys(wanted)
        for scope in _scopes(variant, context):
            silent = {service for service in wanted if not samples[service]}
            if not silent:
                break
            try:
                for answers in _by_service(client, variant, context, scope):
                    series = [item for item in answers if item.labels.get("service") in silent]
                    sink.write(metrics_table(series, spec.name, spec.metric.unit, variant.source))
                    samples.update({item.labels["service"]: len(item.values) for item in series})
            except RefusedError as error:
                problems.append(f"{spec.name} by {variant.source}: {error}")
    steps = context.grid.steps
    return problems + [
        f"no sample of {spec.name} for {service} at {steps - samples[service]} of {steps} steps"
        for service in expected
        if steps - samples[service] > TOLERATED_GAP * steps
    ]


def _scopes(variant: Variant, context: ExportContext) -> Sequence[LabelScope | None]:
    """Return the labels by which the variant is asked; none where Prometheus lacks its series."""
    if variant.join != "labels":
        return (None,)
    return context.label_scopes if context.series_names.issuperset(variant.series) else ()


def _by_service(
    client: PrometheusClient, variant: Variant, context: ExportContext, scope: LabelScope | None = None
) -> Iterator[list[Series]]:
    """Yield the variant's figures for each service, chunk by chunk of the grid."""
    queries = variant.queries(context.params.rate_window_s, context.sources.namespace, scope)
    for part, answers in client.query_ranges(queries, context.grid):
        if variant.join == "service":
            yield answers[0]
        else:
            rows = joined(variant, answers, part, context.placement)
            yield [row_series(service, row, part) for service, row in rows.items()]


def joined(variant: Variant, answers: list[list[Series]], part: TimeGrid, placement: Placement) -> dict[str, Row]:
    """Return the answers to the variant's queries as values per service."""
    if variant.quantile is not None:
        rows = join_buckets(answers[0], part, placement, variant.join, variant.quantile)
    else:
        sums = [join_series(series, part, placement, variant.join, variant.combine) for series in answers]
        rows = ratio_of(*sums) if variant.divisor else sums[0]
    if variant.scale == 1.0:
        return rows
    return {service: Row(np.multiply(row.values, variant.scale), row.present) for service, row in rows.items()}
