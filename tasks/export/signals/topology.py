"""The topology signal."""

from __future__ import annotations

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.span_metrics import calls_into_services
from tasks.export.topology import call_edges, placement_edges


@exporter("topology", "topology")
def export_topology(context: ExportContext, sink: Sink) -> list[str]:
    """Call edges that the stack declares or that spans show, and where each service runs."""
    calls = call_edges(calls_into_services(context.spans), context.sources.calls)
    placement = placement_edges(context.stack)
    sink.write(calls)
    sink.write(placement)
    connected = set(calls["source"]) | set(calls["target"])
    placed = set(placement["source"])
    problems = [f"no call into or out of {service} is known" for service in context.roles if service not in connected]
    return problems + [f"the node of {service} is not known" for service in context.roles if service not in placed]
