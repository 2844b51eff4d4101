"""Who calls whom, as the stack declares it and as the spans show it, and which service runs on which node."""

from __future__ import annotations

import pandas as pd

from tasks.case import CALLS, RUNS_ON, Stack


def call_edges(calls: pd.DataFrame, declared: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    """Distinct edges caller -> callee: declared ones and those seen in ``calls_into_services``."""
    seen = calls.loc[calls["caller"].notna(), ["caller", "service"]].set_axis(["source", "target"], axis=1)
    stated = pd.DataFrame(list(declared), columns=["source", "target"], dtype="string")
    edges = pd.concat([stated, seen.astype("string")]).drop_duplicates()
    return edges.sort_values(["source", "target"]).assign(relation=CALLS)[["relation", "source", "target"]]


def placement_edges(stack: Stack) -> pd.DataFrame:
    """service -> node, for the services whose node is known."""
    placed = [(RUNS_ON, service.name, service.node) for service in stack.services if service.node]
    return pd.DataFrame(placed, columns=["relation", "source", "target"], dtype="string")
