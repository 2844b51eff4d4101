"""Range queries against Prometheus, in chunks of bounded size, as Arrow tables.

Prometheus refuses more than 11,000 points per series in one answer, so long windows are split; the split also bounds
memory. Answers are asked for uncompressed: on a local network gzip costs Prometheus far more than it saves.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from tasks.case import METRICS, TIMESTAMP
from tasks.export.http import Answer, Connection, RefusedError, SourceError, TelemetryClient, one_line
from tasks.export.matrix import Series, decode_answer, matrix_series

log = logging.getLogger(__name__)

MAX_STEPS_PER_QUERY = 10_000
"""Below Prometheus's limit of 11,000 points per series."""
TARGET_POINTS_PER_QUERY = 50_000
"""Points over all series that one answer should hold: about 2 MB of JSON."""
FIRST_QUERY_STEPS = 300
REFUSED_STATUS = frozenset({400, 422})


class _TooMuchError(SourceError):
    """The query may be answered for a shorter time."""


@dataclass(frozen=True)
class TimeGrid:
    """Sampling times ``start_ms + i * step_ms`` for ``i < steps``, in milliseconds since the epoch."""

    start_ms: int
    step_ms: int
    steps: int

    @classmethod
    def between(cls, start: datetime, end: datetime, step_s: float) -> TimeGrid:
        """The times from ``start`` to ``end``, both included where they fall on the grid."""
        start_ms, end_ms, step_ms = (math.floor(x * 1000 + 1e-3) for x in (start.timestamp(), end.timestamp(), step_s))
        if step_ms < 1:
            raise ValueError(f"step_s: {step_s} is below 1 ms")
        if end_ms < start_ms:
            raise ValueError(f"end {end.isoformat()} is before start {start.isoformat()}")
        return cls(start_ms, step_ms, (end_ms - start_ms) // step_ms + 1)

    def part(self, first: int, steps: int) -> TimeGrid:
        return TimeGrid(self.start_ms + first * self.step_ms, self.step_ms, min(steps, self.steps - first))

    @property
    def end_ms(self) -> int:
        return self.start_ms + (self.steps - 1) * self.step_ms

    @property
    def times_ns(self) -> np.ndarray:
        """Shape (steps,), int64."""
        return (self.start_ms + np.arange(self.steps, dtype=np.int64) * self.step_ms) * 1_000_000


class PrometheusClient(TelemetryClient):
    """Range queries over a kept-open connection, in chunks.

    Passing failures are tried again (see ``HttpClient``). A question that is too large for the server (it runs out of
    time or loads too many samples) is asked again for half as many steps.

    Args:
        url: base URL, such as ``http://10.0.0.2:9090``.
        timeout_s: for connecting, and for each wait for data.
        retries: further tries after the first.
        backoff_s: pause before the first retry; doubles each time.
        lookback_s: how old a sample may be and still count as current. Prometheus 2.44 and newer honour it; older ones
            use ``--query.lookback-delta``.
        access: bearer token, CA, tenant.

    Attributes:
        warnings: what the server said about answers that may be incomplete, each once.
    """

    def __init__(self, url: str, *, lookback_s: float | None = None, **connection: Unpack[Connection]) -> None:
        connection.setdefault("timeout_s", 30)
        super().__init__(url, **connection)
        self._lookback_s = lookback_s
        self.warnings: dict[str, None] = {}

    def query_range(self, promql: str, grid: TimeGrid) -> Iterator[list[Series]]:
        """Every series of ``promql`` on the grid, one list per chunk of time; steps without a sample are absent.

        Raises:
            RefusedError: this query will never be answered.
            SourceError: not reachable after all retries, or not a Prometheus.
        """
        for _, (series,) in self.query_ranges((promql,), grid):
            if series:
                yield series

    def query_ranges(self, queries: tuple[str, ...], grid: TimeGrid) -> Iterator[tuple[TimeGrid, list[list[Series]]]]:
        """The answers to several queries for one part of the grid after the other. Raises like ``query_range``."""
        first, steps = 0, min(FIRST_QUERY_STEPS, MAX_STEPS_PER_QUERY)
        largest = MAX_STEPS_PER_QUERY
        while first < grid.steps:
            part = grid.part(first, steps)
            try:
                answers = [self._get(promql, part) for promql in queries]
            except _TooMuchError as error:
                if part.steps == 1:
                    raise SourceError(str(error)) from None
                steps = largest = max(1, part.steps // 2)
                log.info("Prometheus cannot answer for %d steps at once, asking for %d", part.steps, steps)
                continue
            first += part.steps
            yield part, answers
            width = max(len(series) for series in answers)
            steps = max(1, min(largest, TARGET_POINTS_PER_QUERY // width if width else largest))

    def series_names(self, start_s: float, end_s: float) -> frozenset[str]:
        """Names of all series that had a sample between the two times (seconds since the epoch)."""
        fields = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
        answer = self._http.request("/api/v1/label/__name__/values", fields)
        return frozenset(self._data(answer, answer.json(), "the names of series"))

    def _get(self, promql: str, grid: TimeGrid) -> list[Series]:
        fields = {
            "query": promql,
            "start": f"{grid.start_ms / 1000:.3f}",
            "end": f"{grid.end_ms / 1000:.3f}",
            "step": f"{grid.step_ms / 1000:.3f}",
        }
        if self._lookback_s is not None:
            fields["lookback_delta"] = f"{self._lookback_s:g}s"
        answer = self._http.request("/api/v1/query_range", fields, final=_ran_out_of_time)
        document, arrays = decode_answer(answer.body)
        data = self._data(answer, document, f"query: {promql}")
        if data.get("resultType") != "matrix":
            raise SourceError(f"{self._http.url}: expected a matrix, got {data.get('resultType')} (query: {promql})")
        return matrix_series(data["result"], arrays)

    def _data(self, answer: Answer, document: Any, question: str) -> Any:
        url = self._http.url
        if not isinstance(document, dict) or "status" not in document:
            raise SourceError(f"{url}: HTTP {answer.status} with a body that is not Prometheus's: {answer.excerpt!r}")
        if document["status"] != "success":
            problem = f"{url}: HTTP {answer.status}: {one_line(document.get('error') or answer.excerpt)} ({question})"
            if _is_too_much(answer, document):
                raise _TooMuchError(problem)
            raise RefusedError(problem) if answer.status in REFUSED_STATUS else SourceError(problem)
        for warning in document.get("warnings") or ():
            self.warnings.setdefault(one_line(warning))
        return document["data"]


def _ran_out_of_time(answer: Answer) -> bool:
    """No use to ask the same again."""
    document = answer.json()
    return isinstance(document, dict) and document.get("errorType") == "timeout"


def _is_too_much(answer: Answer, document: dict[str, Any]) -> bool:
    too_many = answer.status in REFUSED_STATUS and "too many samples" in str(document.get("error"))
    return too_many or _ran_out_of_time(answer)


def metrics_table(series: list[Series], metric: str, unit: str, source: str) -> pa.Table:
    """Series that carry the label ``service`` as rows of the metrics signal; NaN stays NaN."""
    lengths = [len(item.values) for item in series]
    rows = sum(lengths)
    services = list(dict.fromkeys(item.labels["service"] for item in series))
    codes = np.repeat([services.index(item.labels["service"]) for item in series], lengths).astype(np.int32)
    times = np.concatenate([item.times_ns for item in series]) if series else np.empty(0, np.int64)
    values = np.concatenate([item.values for item in series]) if series else np.empty(0)
    columns = [
        pa.array(times).cast(TIMESTAMP),
        pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(services, pa.string())),
        _constant(metric, rows),
        pa.array(values, from_pandas=False),
        _constant(unit, rows),
        _constant(source, rows),
    ]
    return pa.Table.from_arrays(columns, schema=METRICS)


def _constant(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text], pa.string()))
