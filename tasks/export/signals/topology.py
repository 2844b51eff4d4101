"""The topology signal."""

from __future__ import annotations

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.span_metrics import calls_into_services
from tasks.export.topology import call_edges, mesh_calls, placement_edges


@exporter("topology", "topology")
def export_topology(context: ExportContext, sink: Sink) -> list[str]:
    """Call edges that the stack declares or that spans, the mesh or DeepFlow show, and where each service ran; a
    service whose pods moved within the window is on every node that it was on.

    Raises:
        ExportError: a telemetry server does not answer.
    """
    stated = (*context.sources.calls, *context.deepflow_edges)
    doubts: list[str] = []
    if context.sources.namespace and context.sources.prometheus_url:
        with context.prometheus() as client:
            stated += mesh_calls(client, context.grid, context.placement)
            doubts = client.problems
    calls = call_edges(calls_into_services(context.spans), stated)
    placement = placement_edges(context.stack, context.placement)
    sink.write(calls)
    sink.write(placement)
    connected = set(calls["source"]) | set(calls["target"])
    placed = set(placement["source"])
    problems = doubts + [
        f"no call into or out of {service} is known" for service in context.roles if service not in connected
    ]
    return problems + [f"the node of {service} is not known" for service in context.roles if service not in placed]
