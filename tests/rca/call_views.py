"""Views with a call graph, for the tests of methods that act on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from tasks.case import SIGNALS
from tasks.rca.view import CaseView
from tests.rca.views import T0, view_of

Span = tuple[str, str, str | None, str, float, float]
"""Trace, span, parent span, service, start in seconds after the first row, duration in seconds."""


def call_view(
    columns: Mapping[tuple[str, str], Sequence[float]],
    *,
    normal_rows: int,
    calls: Sequence[tuple[str, str]],
    hosts: Mapping[str, str] | None = None,
    sli: Sequence[float] | None = None,
    spans: Sequence[Span] = (),
) -> CaseView:
    """As :func:`view_of`; the service of the first column is the front end. One row per second."""
    view = view_of({name: list(values) for name, values in columns.items()}, normal_rows=normal_rows)
    edges = [("calls", *call) for call in calls] + [("runs_on", *place) for place in (hosts or {}).items()]
    return replace(
        view,
        topology=pd.DataFrame(edges, columns=["relation", "source", "target"]),
        sli=view.sli if sli is None else pd.Series(sli, index=view.metrics.index, name="sli", dtype=float),
        spans=span_table(spans),
    )


def span_table(spans: Sequence[Span]) -> pd.DataFrame:
    if not spans:
        return SIGNALS["spans"].empty_table().to_pandas()
    table = pd.DataFrame(spans, columns=["trace_id", "span_id", "parent_span_id", "service", "start", "duration"])
    table["start"] = T0 + pd.to_timedelta(table["start"], unit="s").dt.as_unit("ns")
    return table.assign(operation="call", status_code=200, attributes="{}")


def stepped(rows: int, normal_rows: int, height: float, *, level: float = 1.0, seed: int = 0) -> list[float]:
    """``level`` with a little noise, ``height`` times as much from the inject time on."""
    noise = 1 + 0.05 * np.random.default_rng(seed).standard_normal(rows)
    return (level * noise * np.where(np.arange(rows) >= normal_rows, height, 1.0)).tolist()


def reordered(view: CaseView, seed: int = 0) -> CaseView:
    """The same view with services, columns, spans and topology in another order."""
    rng = np.random.default_rng(seed)
    return replace(
        view,
        services=tuple(rng.permutation(view.services).tolist()),
        metrics=view.metrics.iloc[:, rng.permutation(view.metrics.shape[1])],
        topology=view.topology.sample(frac=1, random_state=seed),
        spans=view.spans.sample(frac=1, random_state=seed),
    )
