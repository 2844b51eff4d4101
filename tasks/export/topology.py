"""Who calls whom, as the stack declares it and as telemetry shows it, and which service runs on which nodes."""

from __future__ import annotations

import pandas as pd

from tasks.case import CALLS, RUNS_ON, Stack
from tasks.export.grid import TimeGrid
from tasks.export.placement import Placement
from tasks.export.prometheus import PrometheusClient
from tasks.export.promql import PEER_LABELS

_PEERS = ", ".join(
    f"{side}_{ending}" for side in ("source", "destination") for ending in ("workload_namespace", *PEER_LABELS)
)
MESH_COUNTERS = (
    'istio_requests_total{reporter=~"waypoint|source|destination"}',
    'istio_tcp_connections_opened_total{reporter=~"waypoint|source|destination"}',
)
"""What Istio's waypoints (requests) and ztunnels (connections) count."""


def call_edges(calls: pd.DataFrame, declared: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    """Distinct edges caller -> callee: declared ones and those seen in ``calls_into_services``."""
    seen = calls.loc[calls["caller"].notna(), ["caller", "service"]].set_axis(["source", "target"], axis=1)
    stated = pd.DataFrame(list(declared), columns=["source", "target"], dtype="string")
    edges = pd.concat([stated, seen.astype("string")]).drop_duplicates()
    return edges.sort_values(["source", "target"]).assign(relation=CALLS)[["relation", "source", "target"]]


def mesh_calls(client: PrometheusClient, grid: TimeGrid, placement: Placement) -> tuple[tuple[str, str], ...]:
    """Distinct (caller, callee) of the calls that the mesh counted within the window, between services of the stack.

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
    """service -> node, for the services whose nodes are known."""
    nodes = placement.nodes if placement else {}
    placed = [
        (RUNS_ON, service.name, node)
        for service in stack.services
        for node in dict.fromkeys(nodes.get(service.name) or ([service.node] if service.node else []))
    ]
    return pd.DataFrame(placed, columns=["relation", "source", "target"], dtype="string")
