"""Views with hand-made traces and log lines. Times are in seconds from the inject time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tasks.rca.view import CaseView
from tests.rca.views import view_of


@dataclass(frozen=True)
class Call:
    """One span and the spans below it."""

    service: str
    start: float
    duration: float
    children: tuple[Call, ...] = ()
    operation: str = "op"
    status: int | None = 200


def call(service: str, start: float, duration: float, *children: Call, **other: Any) -> Call:
    return Call(service, start, duration, children, **other)


def with_traces(view: CaseView, roots: Sequence[Call]) -> CaseView:
    """``view`` with one trace per root."""
    rows = [row for i, root in enumerate(roots) for row in _rows(root, f"trace-{i}", None, "1")]
    spans = pd.DataFrame(
        rows,
        columns=["trace_id", "span_id", "parent_span_id", "service", "operation", "start", "duration", "status_code"],
    )
    spans["start"] = view.inject_time + pd.to_timedelta(spans["start"], unit="s").dt.as_unit("ns")
    services = tuple(dict.fromkeys([*view.services, *spans["service"]]))
    return replace(
        view,
        spans=_typed(spans.assign(attributes=None), view.spans),
        services=services,
        roles=dict.fromkeys(services, "replica"),
    )


def _typed(table: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the types of ``like``; integers with gaps are floats, as they come from Parquet."""
    types = {name: getattr(dtype, "name", dtype) for name, dtype in like.dtypes.items()}
    return table.astype({name: dtype for name, dtype in types.items() if name != "status_code"})


def _rows(span: Call, trace: str, parent: str | None, name: str) -> Iterator[tuple[object, ...]]:
    yield trace, name, parent, span.service, span.operation, span.start, span.duration, span.status
    for i, child in enumerate(span.children):
        yield from _rows(child, trace, name, f"{name}.{i}")


def with_logs(view: CaseView, lines: Sequence[tuple[float, str, str | None, str]]) -> CaseView:
    """``view`` with log lines (time, service, level, message)."""
    logs = pd.DataFrame(lines, columns=["time", "service", "level", "message"]).assign(template_id=None)
    logs["time"] = view.inject_time + pd.to_timedelta(logs["time"], unit="s").dt.as_unit("ns")
    return replace(view, logs=_typed(logs, view.logs))


def no_metrics(services: Sequence[str] = ("a",)) -> CaseView:
    view = view_of({(service, "cpu"): [0, 0] for service in services}, normal_rows=1)
    return replace(view, metrics=view.metrics.iloc[:0, :0])
