"""Log lines and spans counted on a clock: tables with one row per step and one column per (service, what is counted).

A step without an event counts 0 and has no duration. Logs, or spans, that are there on one side of the inject time only
were not recorded on the other, and give no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from tasks.rca.features.rows import row_of
from tasks.rca.features.spans import SpanTable, numbered
from tasks.rca.view import CaseView

LogLines = Literal["service", "template"]
"""``template``: a column per template too, and per level where lines have no template."""


class Clock(Protocol):
    """Steps of time, of which ``before`` lie before the inject time."""

    @property
    def before(self) -> int: ...

    def __len__(self) -> int: ...

    def place(self, times_ns: np.ndarray) -> np.ndarray:
        """Return the step of each time, -1 for times outside."""
        ...


@dataclass(frozen=True)
class MetricRows:
    """The rows of the metrics of a view as a clock: an event falls on the row whose step it lies in."""

    view: CaseView

    @property
    def before(self) -> int:
        return int(np.count_nonzero(self.view.metrics.index < self.view.inject_time))

    def __len__(self) -> int:
        return len(self.view.metrics)

    def place(self, times_ns: np.ndarray) -> np.ndarray:
        return row_of(pd.DatetimeIndex(self.view.metrics.index), times_ns, self.view.step_ns)


def log_times(view: CaseView) -> np.ndarray:
    """Return the times of the log lines, ns since the epoch."""
    times: np.ndarray = view.logs["time"].dt.as_unit("ns").astype("int64").to_numpy()
    return times


def log_counts(view: CaseView, clock: Clock, log_lines: LogLines) -> Iterator[pd.DataFrame]:
    """Yield the table of lines per step, if logs are on both sides."""
    step = clock.place(log_times(view))
    if not _on_both_sides(step, clock):
        return
    service, services = numbered(view.logs["service"])
    yield _counts(step, service, [(name, "log_lines") for name in services], clock)
    if log_lines == "template":
        kind, kinds = numbered(
            view.logs["template_id"].astype("string").fillna(view.logs["level"].astype("string")).fillna("no level")
        )
        pair, pairs = pd.factorize(service * len(kinds) + kind)
        labels = [(services[p // len(kinds)], f"log_lines {kinds[p % len(kinds)]}") for p in pairs.tolist()]
        yield _counts(step, pair, labels, clock)


def span_columns(table: SpanTable, clock: Clock, *, traffic: bool = False) -> Iterator[pd.DataFrame]:
    """Yield, if spans are on both sides, the tables of error spans and of the mean duration (s) of each operation, in
    the step in which they ended; with ``traffic`` also of spans."""
    step = clock.place(table.end)
    if not _on_both_sides(step, clock):
        return
    inside = step >= 0
    yield _counts(np.where(table.error, step, -1), table.operation, _labels(table, "span_errors"), clock)
    spans = _counts(step, table.operation, _labels(table, "spans"), clock)
    cell = step[inside] * len(table.operations) + table.operation[inside]
    total = np.bincount(cell, weights=table.duration[inside], minlength=spans.size).reshape(spans.shape)
    with np.errstate(invalid="ignore"):
        yield pd.DataFrame(total / spans.to_numpy(), columns=_index(_labels(table, "span_latency")))
    if traffic:
        yield spans


def _labels(table: SpanTable, what: str) -> list[tuple[str, str]]:
    return [(service, f"{what} {operation}") for service, operation in table.operations]


def _on_both_sides(step: np.ndarray, clock: Clock) -> bool:
    inside = step[step >= 0]
    return bool((inside < clock.before).any() and (inside >= clock.before).any())


def _counts(step: np.ndarray, column: np.ndarray, labels: list[tuple[str, str]], clock: Clock) -> pd.DataFrame:
    """Events per step (rows; step -1 is left out) and column."""
    inside = step >= 0
    cell = step[inside] * len(labels) + column[inside]
    counts = np.bincount(cell, minlength=len(clock) * len(labels)).reshape(len(clock), len(labels))
    return pd.DataFrame(counts.astype(float), columns=_index(labels))


def _index(labels: list[tuple[str, str]]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples(labels, names=["service", "metric"])
