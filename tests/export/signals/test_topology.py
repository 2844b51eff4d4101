from __future__ import annotations

from tasks.case import Service, Stack
from tasks.export.signals.topology import call_edges, placement_edges


def test_declared_and_seen_edges_are_joined_once() -> None:
    edges = call_edges((("b", "c"), ("a", "b"), ("x", "y"), ("a", "b")))
    assert edges[["source", "target"]].to_numpy().tolist() == [["a", "b"], ["b", "c"], ["x", "y"]]
    assert set(edges["relation"]) == {"calls"}


def test_services_without_a_node_have_no_placement() -> None:
    stack = Stack(
        backend="local",
        services=(Service(name="a", role="gateway", node="n1"), Service(name="b", role="replica")),
    )
    assert placement_edges(stack).to_numpy().tolist() == [["runs_on", "a", "n1"]]
