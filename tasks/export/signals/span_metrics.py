"""Canonical metrics that are derived from spans."""

from __future__ import annotations

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.queries.metrics import METRIC_MAP, MetricSpec
from tasks.stack import Role


@exporter("span-metrics", "metrics")
def export_span_metrics(context: ExportContext, sink: Sink) -> list[str]:
    """Write latency, engine times and gateway rates on the grid of the export. Missing metrics that Prometheus can
    supply are not reported."""
    if not context.derived_metrics.empty:
        sink.write(context.derived_metrics)
    return [problem for spec in METRIC_MAP for problem in _problems(spec, context)]


def _problems(spec: MetricSpec, context: ExportContext) -> list[str]:
    variants = spec.variants_of(context.sources.units, context.sources.gpus)
    only_here = spec.span_roles - frozenset[Role]().union(*(variant.roles for variant in variants))
    return [
        f"no span to derive {spec.name} from for {service}"
        for service, role in context.roles.items()
        if role in only_here and (spec.name, service) not in context.derived
    ]
