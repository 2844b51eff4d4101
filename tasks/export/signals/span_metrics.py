"""Canonical metrics that are derived from spans: latency per service, request and error rate of the gateway."""

from __future__ import annotations

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.metric_map import METRIC_MAP, MetricSpec
from tasks.export.span_metrics import calls_into_services, gateway_metrics, latency_metrics


@exporter("span-metrics", "metrics")
def export_span_metrics(context: ExportContext, sink: Sink) -> list[str]:
    """Latency as each service's callers see it, on the grid of the export."""
    window_s = context.params.rate_window_s
    frames = [latency_metrics(calls_into_services(context.spans), context.grid, window_s)]
    if context.gateway is not None:
        frames.append(gateway_metrics(context.spans, context.gateway, context.grid, window_s))
    found: set[tuple[str, str]] = set()
    for frame in frames:
        if not frame.empty:
            sink.write(frame)
            found.update(frame[["metric", "service"]].drop_duplicates().itertuples(index=False, name=None))
    return [problem for spec in METRIC_MAP for problem in _problems(spec, found, context)]


def _problems(spec: MetricSpec, found: set[tuple[str, str]], context: ExportContext) -> list[str]:
    lacking = [s for s, role in context.roles.items() if role in spec.span_roles and (spec.name, s) not in found]
    return [f"no span to derive {spec.name} from for {service}" for service in lacking]
