"""The spans signal."""

from __future__ import annotations

from tasks.case import SPANS
from tasks.export.base import ExportContext, Sink, exporter


@exporter("spans", "spans")
def export_spans(context: ExportContext, sink: Sink) -> list[str]:
    """Write the spans around the window. A service without any is a problem, except the head where services are pods:
    it serves no requests there."""
    sources = context.sources
    ours = sources.units != "labelled"
    problems = [f"{path.name} does not exist" for path in sources.otlp if not path.exists()]
    if not sources.otlp and sources.spans_url is None:
        problems.append("the stack has no OTLP file" if ours else "no traces are given (deploy.traces)")
    if sources.nginx_access_log is not None and not sources.nginx_access_log.exists():
        problems.append(f"access log {sources.nginx_access_log.name} does not exist")
    if sources.nginx_access_log is None and sources.loki_url is None and ours:
        problems.append("the stack has no access log")
    sink.write(context.spans[SPANS.names])
    problems += context.spans_left_out.problems
    sink.note(context.spans_left_out.notes)
    expected = [s for s, role in context.roles.items() if role != "head" or sources.units == "processes"]
    silent = [service for service in expected if not context.spans["service"].eq(service).any()]
    return problems + [f"no span of {service}" for service in silent]
