"""Queries against Prometheus, those over time in chunks of bounded size, as Arrow tables.

Prometheus refuses more than 11,000 points per series in one answer, so long windows are split; the split also bounds
memory. Answers are asked for uncompressed: on a local network gzip costs Prometheus far more than it saves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from tasks.case import METRICS, TIMESTAMP
from tasks.export.grid import Misplaced, TimeGrid, on_grid
from tasks.export.sources.http import (
    Answer,
    Connection,
    RefusedError,
    SourceError,
    TelemetryClient,
    message_lines,
    one_line,
)
from tasks.export.sources.matrix import OddAnswerError, Series, decode_answer, matrix_series
from tasks.left_out import LeftOut

log = logging.getLogger(__name__)

MAX_STEPS_PER_QUERY = 10_000
"""Below Prometheus's limit of 11,000 points per series."""
TARGET_POINTS_PER_QUERY = 50_000
"""Target number of points over all series of one answer: about 2 MB of JSON."""
FIRST_QUERY_STEPS = 300
REFUSED_STATUS = frozenset({400, 413, 422})
EXACT_TIMES = {"nocache": "1", "latency_offset": "1ms"}
"""Options of VictoriaMetrics: do not round requested times to the step, do not repeat the last value over the latest
30 s. Other servers ignore both."""
_TOO_MUCH = re.compile(
    r"(?i)too (many|large|long)|exceed|larger than max|maximum|violated|cannot (select|process) more than"
    r"|hit the max|not enough memory|resource[ _]exhausted|tim(ed|e) ?-?out|timeout|deadline"
)
_BUSY = re.compile(r"(?i)outstanding|concurrent|unavailable|rate limit|too many requests")
_NO_QUERY = re.compile(r"(?i)parse error|cannot parse|invalid parameter|unknown function|duplicate")


class _TooMuchError(SourceError):
    """The query is too large; the server may answer it for a shorter time."""

    def __init__(self, problem: str, refused: bool) -> None:
        super().__init__(problem)
        self.refused = refused


class PrometheusClient(TelemetryClient):
    """Range queries over a kept-open connection, in chunks, to Prometheus or a server that speaks its API.

    Transient failures are retried (see ``HttpClient``). A query that is too large for the server (it times out, or
    exceeds a limit on points, samples, series or query length) is repeated for half as many steps, down to one.

    Args:
        url: base URL, such as ``http://10.0.0.2:9090`` or ``http://vmselect:8481/select/0/prometheus``.
        timeout_s: for connecting, and for each wait for data.
        retries: further tries after the first.
        backoff_s: pause before the first retry; doubles each time.
        lookback_s: how old a sample may be and still count as current. Prometheus 2.44 and newer honour it, and
            VictoriaMetrics under another name; older ones use ``--query.lookback-delta``.
        access: bearer token, CA, tenant.

    Attributes:
        warnings: the server's warnings of incomplete answers, each once.
        infos: the server's other remarks, each once.
        left_out: unusable parts of the answers.
    """

    def __init__(self, url: str, *, lookback_s: float | None = None, **connection: Unpack[Connection]) -> None:
        connection.setdefault("timeout_s", 30)
        super().__init__(url, **connection)
        self._lookback_s = lookback_s
        self._margin_steps = 0
        self._misplaced = Misplaced()
        self.warnings: dict[str, None] = {}
        self.infos: dict[str, None] = {}
        self.left_out = LeftOut()

    @property
    def problems(self) -> list[str]:
        """Reasons why the answers so far may be incomplete, one line each."""
        outside = self._misplaced.outside
        return [
            *(f"Prometheus warns: {warning}" for warning in self.warnings),
            *self.left_out.problems,
            *([f"Prometheus: left out {outside} x a sample outside of the asked time"] if outside else []),
        ]

    @property
    def notes(self) -> list[str]:
        """Remarks on the answers so far that do not make them incomplete, one line each."""
        off_ms = self._misplaced.off_ms
        moved = f"Prometheus answers at times of its own, up to {off_ms} ms from the asked ones; the nearest are taken"
        return [*(f"Prometheus informs: {info}" for info in self.infos), *([moved] if off_ms else [])]

    def query_range(self, promql: str, grid: TimeGrid) -> Iterator[list[Series]]:
        """Yield every series of ``promql`` on the grid, one list per chunk of time; steps without a sample are absent.

        Raises:
            RefusedError: the server refuses this query for good.
            SourceError: not reachable after all retries, or not a Prometheus.
        """
        for _, (series,) in self.query_ranges((promql,), grid):
            if series:
                yield series

    def query_ranges(self, queries: tuple[str, ...], grid: TimeGrid) -> Iterator[tuple[TimeGrid, list[list[Series]]]]:
        """Yield the answers to several queries, one part of the grid after the other. Raises like ``query_range``."""
        first, steps = 0, min(FIRST_QUERY_STEPS, MAX_STEPS_PER_QUERY)
        largest = MAX_STEPS_PER_QUERY
        while first < grid.steps:
            part = grid.part(first, steps)
            try:
                answers = [self._on_grid(promql, part) for promql in queries]
            except _TooMuchError as error:
                if part.steps == 1:
                    raise (RefusedError if error.refused else SourceError)(str(error)) from None
                steps = largest = max(1, part.steps // 2)
                log.info("Prometheus cannot answer for %d steps at once, asking for %d", part.steps, steps)
                continue
            first += part.steps
            yield part, answers
            width = max(len(series) for series in answers)
            steps = max(1, min(largest, TARGET_POINTS_PER_QUERY // width if width else largest))

    def series_names(self, start_s: float, end_s: float) -> frozenset[str]:
        """Return the names of all series that had a sample between the two times (seconds since the epoch)."""
        fields = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
        return self._names("/api/v1/label/__name__/values", fields, "names of series")

    def instant(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and present value of every series of an instant query.

        Raises:
            RefusedError: the server refuses this query for good.
            SourceError: not reachable after all retries, or not a Prometheus.
        """
        answer = self._http.request("/api/v1/query", {"query": promql}, final=_is_too_much)
        data = self._data(answer, answer.json(), f"query: {promql}")
        try:
            if data["resultType"] == "scalar":
                return [({}, float(data["result"][1]))]
            return [(dict(each["metric"]), float(each["value"][1])) for each in data["result"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SourceError(f"{self._http.url}: an answer that is not Prometheus's (query: {promql})") from error

    def raw(self, selector: str) -> list[Series]:
        """Return the samples, as they were scraped, of a selector with a range: ``up[5m]``. Raises SourceError."""
        question = f"query: {selector}"
        answer = self._http.request("/api/v1/query", {"query": selector}, final=_is_too_much)
        document, arrays = decode_answer(answer.body)
        data = self._data(answer, document, question)
        try:
            return matrix_series(data.get("result") if isinstance(data, dict) else None, arrays, self.left_out)
        except OddAnswerError as error:
            raise SourceError(f"{self._http.url}: an answer that is not Prometheus's: {error} ({question})") from None

    def label_names(self, start_s: float, end_s: float) -> frozenset[str]:
        """Return the names of all labels of series that had a sample between the two times (s since the epoch)."""
        fields = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
        return self._names("/api/v1/labels", fields, "names of labels")

    def _names(self, path: str, fields: dict[str, str], what: str) -> frozenset[str]:
        answer = self._http.request(path, fields)
        names = self._data(answer, answer.json(), f"the {what}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SourceError(f"{self._http.url}: expected a list of {what}: {answer.excerpt!r}")
        return frozenset(names)

    def now(self) -> float:
        """Return the time of the server's clock, in seconds since the epoch. Raises SourceError."""
        answer = self._http.request("/api/v1/query", {"query": "time()"})
        data = self._data(answer, answer.json(), "its clock")
        try:
            return float(data["result"][1])
        except (KeyError, IndexError, TypeError, ValueError):
            raise SourceError(f"{self._http.url}: an answer that is not Prometheus's: {answer.excerpt!r}") from None

    def _on_grid(self, promql: str, grid: TimeGrid) -> list[Series]:
        """Return the answer placed on the grid. Once a server has moved the requested times, one more step on each side
        is requested: the sample nearest to the first or last step may lie outside."""
        moved = Misplaced()
        series = on_grid(self._get(promql, grid.widened(self._margin_steps)), grid, moved)
        if moved.off_ms > self._misplaced.off_ms:
            self._misplaced.off_ms = moved.off_ms
        if moved.off_ms and not self._margin_steps:
            log.info("%s answers at times of its own, up to %d ms from the asked ones", self._http.url, moved.off_ms)
            self._margin_steps = 1
            return self._on_grid(promql, grid)
        self._misplaced.outside += moved.outside
        return series

    def _get(self, promql: str, grid: TimeGrid) -> list[Series]:
        fields = {
            "query": promql,
            "start": f"{grid.start_ms / 1000:.3f}",
            "end": f"{grid.end_ms / 1000:.3f}",
            "step": f"{grid.step_ms / 1000:.3f}",
            **EXACT_TIMES,
        }
        if self._lookback_s is not None:
            fields["lookback_delta"] = fields["max_lookback"] = f"{self._lookback_s:g}s"
        question = f"query: {promql}"
        answer = self._http.request("/api/v1/query_range", fields, final=_is_too_much)
        document, arrays = decode_answer(answer.body)
        data = self._data(answer, document, question)
        kind = data.get("resultType") if isinstance(data, dict) else None
        if kind != "matrix":
            got = "no data" if data is None else one_line(kind) if kind else "something else"
            raise SourceError(f"{self._http.url}: expected a matrix, got {got} ({question})")
        try:
            return matrix_series(data.get("result"), arrays, self.left_out)
        except OddAnswerError as error:
            raise SourceError(f"{self._http.url}: an answer that is not Prometheus's: {error} ({question})") from None

    def _data(self, answer: Answer, document: Any, question: str) -> Any:
        url = self._http.url
        if not isinstance(document, dict) or "status" not in document:
            problem = f"{url}: HTTP {answer.status} with a body that is not Prometheus's: {answer.excerpt!r}"
            if _is_too_much(answer):
                raise _TooMuchError(f"{problem} ({question})", refused=True)
            plain = answer.status in REFUSED_STATUS and document is None and not answer.excerpt.startswith("<")
            raise RefusedError(f"{problem} ({question})") if plain else SourceError(problem)
        if document["status"] != "success":
            problem = f"{url}: HTTP {answer.status}: {one_line(document.get('error') or answer.excerpt)} ({question})"
            refused = answer.status in REFUSED_STATUS
            if _is_too_much(answer):
                raise _TooMuchError(problem, refused)
            raise RefusedError(problem) if refused else SourceError(problem)
        self.warnings.update(dict.fromkeys(message_lines(document.get("warnings"))))
        if document.get("isPartial") is True:
            self.warnings.setdefault("an answer is partial (isPartial)")
        self.infos.update(dict.fromkeys(message_lines(document.get("infos"))))
        return document.get("data")


def _is_too_much(answer: Answer) -> bool:
    """Return whether the server may answer a shorter question. Servers state their limits in words of their own, often
    as plain text; a busy server may answer the same question later."""
    if answer.status in (200, 429):
        return False
    document = answer.json()
    if not isinstance(document, dict):
        text = "" if answer.status not in REFUSED_STATUS else answer.body[:2000].decode("utf-8", "replace")
    elif document.get("errorType") == "timeout":
        return True
    else:
        text = str(document.get("error") or document.get("message") or "")
    if answer.status not in REFUSED_STATUS and _BUSY.search(text):
        return False
    return _TOO_MUCH.search(text) is not None and _NO_QUERY.search(text) is None


def metrics_table(series: list[Series], metric: str, unit: str, source: str) -> pa.Table:
    """Return series that carry the label ``service`` as rows of the metrics signal; NaN stays NaN."""
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
