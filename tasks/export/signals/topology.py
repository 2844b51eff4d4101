"""The topology signal: calls between services, declared or seen in telemetry, and the nodes of services."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from tasks.case import CALLS, RUNS_ON, Stack
from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.grid import TimeGrid
from tasks.export.sources.placement import PEER_LABELS, Placement
from tasks.export.sources.prometheus import PrometheusClient
from tasks.spans import service_calls

_PEERS = ", ".join(
    f"{side}_{ending}" for side in ("source", "destination") for ending in ("workload_namespace", *PEER_LABELS)
)
MESH_COUNTERS = (
    'istio_requests_total{reporter=~"waypoint|source|destination"}',
    'istio_tcp_connections_opened_total{reporter=~"waypoint|source|destination"}',
)
"""Counters of Istio's waypoints (requests) and ztunnels (connections)."""


@exporter("topology", "topology")
def export_topology(context: ExportContext, sink: Sink) -> list[str]:
    """Write the call edges declared by the stack or seen by spans, mesh or DeepFlow, and the nodes of each service.

    A service whose pods moved within the window has several nodes.

    Raises:
        ExportError: a telemetry server does not answer.
    """
    stated = (*context.sources.calls, *context.deepflow_edges)
    client_problems: list[str] = []
    if context.sources.namespace and context.sources.prometheus_url:
        with context.prometheus() as client:
            stated += mesh_calls(client, context.grid, context.placement)
            client_problems = client.problems
    calls = call_edges({*stated, *service_calls(context.spans)})
    placement = placement_edges(context.stack, context.placement)
    sink.write(calls)
    sink.write(placement)
    connected = set(calls["source"]) | set(calls["target"])
    placed = set(placement["source"])
    problems = client_problems + [
        f"no call into or out of {service} is known" for service in context.roles if service not in connected
    ]
    return problems + [f"the node of {service} is not known" for service in context.roles if service not in placed]


def call_edges(calls: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return each edge caller -> callee once."""
    edges = pd.DataFrame(sorted(set(calls)), columns=["source", "target"], dtype="string")
    return edges.assign(relation=CALLS)[["relation", "source", "target"]]


def mesh_calls(client: PrometheusClient, grid: TimeGrid, placement: Placement) -> tuple[tuple[str, str], ...]:
    """Return distinct (caller, callee) of the calls that the mesh counted within the window, between services of the
    stack.

    Raises:
        SourceError: Prometheus does not answer.
    """
    window_ms = max(grid.step_ms, grid.end_ms - grid.start_ms)
    at_end = TimeGrid(grid.end_ms, grid.step_ms, 1)
    found = set()
    for counter in MESH_COUNTERS:
        # A counter that first appears within the window has no increase up to that, but counts.
        counted = f"sum by ({_PEERS}) (increase({counter}[{window_ms}ms])) > 0"
        new = f"max_over_time({counter}[{window_ms}ms]) unless {counter} offset {window_ms}ms"
        query = f"{counted} or sum by ({_PEERS}) ({new}) > 0"
        for chunk in client.query_range(query, at_end):
            for series in chunk:
                callers = placement.of_peer(series.labels, "source")
                callees = placement.of_peer(series.labels, "destination")
                found |= {(a.service, b.service) for a in callers for b in callees if a.service != b.service}
    return tuple(sorted(found))


def placement_edges(stack: Stack, placement: Placement | None = None) -> pd.DataFrame:
    """Return service -> node, for the services whose nodes are known."""
    nodes = placement.nodes if placement else {}
    placed = [
        (RUNS_ON, service.name, node)
        for service in stack.services
        for node in dict.fromkeys(nodes.get(service.name) or ([service.node] if service.node else []))
    ]
    return pd.DataFrame(placed, columns=["relation", "source", "target"], dtype="string")
