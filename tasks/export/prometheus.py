"""Range queries against Prometheus, in chunks of bounded size, as Arrow tables.

Prometheus refuses more than 11,000 points per series in one answer, so long windows are split; the split also bounds
memory. Answers are asked for uncompressed: on a local network gzip costs Prometheus far more than it saves.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError

from tasks.case import METRICS, TIMESTAMP

log = logging.getLogger(__name__)

MAX_STEPS_PER_QUERY = 10_000
"""Below Prometheus's limit of 11,000 points per series."""
TARGET_POINTS_PER_QUERY = 50_000
"""Points over all series that one answer should hold: about 10 MB while it is decoded."""
FIRST_QUERY_STEPS = 300
RETRIED_STATUS = (429, 500, 502, 503, 504)


class PrometheusError(RuntimeError):
    """Prometheus could not be asked, or refused the question."""


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


@dataclass(frozen=True)
class Series:
    """Samples of one series: ``times_ns`` (n,) int64 and ``values`` (n,) float64, NaN where Prometheus said NaN."""

    labels: Mapping[str, str]
    times_ns: np.ndarray
    values: np.ndarray


class PrometheusClient:
    """Asks one Prometheus server over a kept-open connection.

    Connection errors, time-outs, truncated answers, 429 and 5xx are tried again with growing pauses (a ``Retry-After``
    header is honoured); other refusals are final.

    Args:
        url: base URL, such as ``http://10.0.0.2:9090``.
        timeout_s: for connecting, and for each wait for data.
        retries: further tries after the first.
        backoff_s: pause before the second retry; doubles each time.
        lookback_s: how old a sample may be and still count as current. Prometheus 2.44 and newer honour it; older ones
            use ``--query.lookback-delta``.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 30,
        retries: int = 5,
        backoff_s: float = 0.2,
        lookback_s: float | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._lookback_s = lookback_s
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=1,
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=urllib3.Retry(
                total=retries,
                backoff_factor=backoff_s,
                backoff_max=10,
                status_forcelist=RETRIED_STATUS,
                allowed_methods=None,
                redirect=2,
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "rcarena-export"},
        )

    def __enter__(self) -> PrometheusClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.clear()

    def query_range(self, promql: str, grid: TimeGrid) -> Iterator[list[Series]]:
        """Every series of ``promql`` on the grid, one list per chunk of time; steps without a sample are absent.

        Raises:
            PrometheusError: not reachable after all retries, not a Prometheus, or the query was refused.
        """
        first, steps = 0, min(FIRST_QUERY_STEPS, MAX_STEPS_PER_QUERY)
        while first < grid.steps:
            part = grid.part(first, steps)
            answer = self._get(promql, part)
            first += part.steps
            if answer:
                steps = max(1, min(MAX_STEPS_PER_QUERY, TARGET_POINTS_PER_QUERY // len(answer)))
                yield answer
            else:
                steps = MAX_STEPS_PER_QUERY

    def _get(self, promql: str, grid: TimeGrid) -> list[Series]:
        fields = {
            "query": promql,
            "start": f"{grid.start_ms / 1000:.3f}",
            "end": f"{grid.end_ms / 1000:.3f}",
            "step": f"{grid.step_ms / 1000:.3f}",
        }
        if self._lookback_s is not None:
            fields["lookback_delta"] = f"{self._lookback_s:g}s"
        try:
            response = self._pool.request("GET", f"{self._url}/api/v1/query_range", fields=fields)
        except MaxRetryError as error:
            raise PrometheusError(f"{self._url}: no answer after retries: {_cause(error)}") from error
        except (HTTPError, ValueError) as error:
            raise PrometheusError(f"{self._url}: {error}") from error
        with _collector_paused():
            return _decode(self._url, promql, response.status, response.data)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Decoding makes a list per sample, none of them in a cycle; the cyclic collector would double its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cause(error: MaxRetryError) -> str:
    reason = error.reason
    if isinstance(reason, ResponseError):
        return str(reason)
    return f"{type(reason).__name__}: {reason}" if reason else str(error)


def _decode(url: str, promql: str, status: int, body: bytes) -> list[Series]:
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PrometheusError(f"{url}: HTTP {status} with a body that is not JSON: {body[:80]!r}") from error
    if not isinstance(document, dict) or document.get("status") != "success":
        reason = document.get("error") if isinstance(document, dict) else None
        reason = reason or body[:80].decode("utf-8", "replace")
        raise PrometheusError(f"{url}: HTTP {status}: {reason} (query: {promql})")
    for warning in document.get("warnings") or ():
        log.warning("Prometheus: %s (query: %s)", warning, promql)
    data = document["data"]
    if data.get("resultType") != "matrix":
        raise PrometheusError(f"{url}: expected a matrix, got {data.get('resultType')} (query: {promql})")
    return [_series(item["metric"], item["values"]) for item in data["result"]]


def _series(labels: Mapping[str, str], samples: list[list[Any]]) -> Series:
    """``samples``: ``[seconds, "value"]`` pairs; the text of NaN and infinities is Go's."""
    flat = list(chain.from_iterable(samples))
    milliseconds = np.rint(np.array(flat[0::2], dtype=np.float64) * 1000).astype(np.int64)
    return Series(labels, milliseconds * 1_000_000, np.array(flat[1::2], dtype=np.float64))


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
