"""The spans of a view as arrays, for the methods that read traces.

A span counts as before the inject time if it **ended** before it: one that straddles the inject time may have been held
up by the fault, so it never helps to define what is normal. Codes number services, operations and traces in the order
in which they appear in the view, which says nothing about their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tasks.rca.method import MethodError
from tasks.rca.view import CaseView
from tasks.spans import Traces, link_spans, span_ends

Duration = Literal["total", "self"]
"""``total``: start to end of a span. ``self``: without the time in which one of its children ran."""

ERROR_STATUS = 400
"""HTTP status from which on a span is an error."""


@dataclass(frozen=True)
class SpanTable:
    """One element per span, in the order of the view.

    ``service``: index into ``services``. ``operation``: index into ``operations``, which are (service, operation).
    ``start``, ``end``: nanoseconds since the epoch. ``duration``: seconds. ``error``: it failed. ``after``: it ended at
    or after the inject time.
    """

    services: tuple[str, ...]
    operations: tuple[tuple[str, str], ...]
    service: np.ndarray
    operation: np.ndarray
    start: np.ndarray
    end: np.ndarray
    duration: np.ndarray
    error: np.ndarray
    after: np.ndarray

    def __len__(self) -> int:
        return len(self.duration)


def _measured(view: CaseView) -> pd.DataFrame:
    """Return the spans that have a duration."""
    duration = view.spans["duration"]
    measured = np.isfinite(duration) & (duration >= 0)
    return view.spans if measured.all() else view.spans[measured]


def span_table(view: CaseView) -> SpanTable:
    """Return the spans of ``view`` as arrays."""
    spans = _measured(view)
    service, services = numbered(spans["service"])
    name, names = numbered(spans["operation"])
    operation, pairs = pd.factorize(service * max(len(names), 1) + name)
    duration = spans["duration"].to_numpy(dtype=float)
    start = spans["start"].dt.as_unit("ns").astype("int64").to_numpy()
    end = span_ends(spans)
    return SpanTable(
        services=services,
        operations=tuple((services[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()),
        service=service,
        operation=operation,
        start=start,
        end=end,
        duration=duration,
        error=(spans["status_code"] >= ERROR_STATUS).fillna(False).to_numpy(dtype=bool),
        after=end >= view.inject_time.value,
    )


def numbered(names: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the code of each name, and the name of each code, in order of appearance. A missing name is a name."""
    code, known = pd.factorize(names, use_na_sentinel=False)
    return code.astype(np.int64), tuple(map(str, known))


def require_spans(table: SpanTable) -> None:
    """Raise :class:`MethodError` if no span ended before, or none after, the inject time."""
    if not (~table.after).any():
        raise MethodError("no span before the inject time")
    if not table.after.any():
        raise MethodError("no span after the inject time")


def link_traces(view: CaseView) -> Traces:
    """Link the spans of :func:`span_table` to traces and parents. Among several spans with one id the shortest, the
    server's, is the parent."""
    spans = _measured(view)
    return link_spans(spans, spans["duration"].to_numpy(dtype=float))


def durations(table: SpanTable, traces: Traces, kind: Duration) -> np.ndarray:
    """Return seconds per span, total or self."""
    return table.duration if kind == "total" else self_time(table, traces)


def self_time(table: SpanTable, traces: Traces) -> np.ndarray:
    """Return each span's seconds in which none of its children ran. Children may overlap and outlive their parent."""
    children = np.flatnonzero(traces.parent >= 0)
    children = children[np.lexsort((table.start[children], traces.parent[children]))]
    if not len(children):
        return table.duration
    parent = traces.parent[children]
    length = table.duration[parent]
    begin = np.clip((table.start[children] - table.start[parent]) / 1e9, 0.0, length)
    finish = np.clip((table.end[children] - table.start[parent]) / 1e9, 0.0, length)

    first = np.r_[True, parent[1:] != parent[:-1]]
    group = np.cumsum(first) - 1
    offset = np.r_[0.0, np.cumsum(length[first])[:-1]][group]  # parents end to end, so that one maximum serves all
    reached = np.maximum.accumulate(offset + finish)
    covered_until = np.where(first, offset, np.r_[0.0, reached[:-1]])
    covered = np.maximum(0.0, offset + finish - np.maximum(offset + begin, covered_until))
    return np.maximum(0.0, table.duration - np.bincount(parent, weights=covered, minlength=len(table)))


def normal_mean_and_deviation(
    values: np.ndarray, group: np.ndarray, groups: int, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation per group of the ``normal`` values; NaN for none."""
    count = np.bincount(group[normal], minlength=groups)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(group[normal], weights=values[normal], minlength=groups) / count
        squares = (values[normal] - mean[group[normal]]) ** 2
        deviation = np.sqrt(np.bincount(group[normal], weights=squares, minlength=groups) / count)
    return mean, deviation


def of_candidates(scores: Iterable[tuple[str, float]], view: CaseView) -> dict[str, float]:
    """Return the highest score of each candidate service; spans can name other services. NaN says nothing."""
    best: dict[str, float] = {}
    for service, score in scores:
        if service in view.services and not np.isnan(score):
            best[service] = max(float(score), best.get(service, -np.inf))
    return best
