"""The spans signal."""

from __future__ import annotations

from tasks.case import SPANS
from tasks.export.base import ExportContext, Sink, exporter


@exporter("spans", "spans")
def export_spans(context: ExportContext, sink: Sink) -> list[str]:
    """Spans around the window; a service without any is a problem."""
    sources = context.sources
    problems = []
    for label, path in (("OTLP file", sources.otlp_file), ("access log", sources.nginx_access_log)):
        if path is None:
            problems.append(f"the stack has no {label}")
        elif not path.exists():
            problems.append(f"{label} {path.name} does not exist")
    sink.write(context.spans[SPANS.names])
    silent = [service for service in context.roles if not context.spans["service"].eq(service).any()]
    return problems + [f"no span of {service}" for service in silent]
