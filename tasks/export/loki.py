"""Log lines from Loki, stream by stream, page by page, none lost and none twice.

Pages go forward in time. Loki has no cursor, and many lines may share one nanosecond, so the next page begins at the
last time of the page before and what was already had of that nanosecond is taken off. Each stream is paged by itself: a
page over several streams would be cut by the busiest one.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

import pandas as pd

from tasks.export.http import Answer, Connection, RefusedError, SourceError, TelemetryClient, one_line
from tasks.export.left_out import LeftOut
from tasks.export.placement import Placement
from tasks.export.spans import access_entries

log = logging.getLogger(__name__)

PAGE_LINES = 5000
"""Loki's default ``max_entries_limit_per_query``; a server that grants less says so and gets smaller pages."""
ACCESS_LOG_FILTER = '|= "\\"request_time\\""'
SERVICE_LABELS = ("service", "app", "service_name", "k8s_app", "component", "container", "job")
POD_LABELS = ("pod", "k8s_pod_name", "pod_name", "instance", "kubernetes_pod_name")


@dataclass(frozen=True)
class Stream:
    """One stream: its labels, and the LogQL selector that matches it alone among its kin."""

    labels: Mapping[str, str]
    selector: str


@dataclass(frozen=True)
class Page:
    """Lines of one stream in order: ``times_ns`` and ``lines`` of equal length."""

    times_ns: list[int]
    lines: list[str]


class LokiClient(TelemetryClient):
    """Asks one Loki over a kept-open connection; passing failures are tried again (see ``HttpClient``).

    Attributes:
        problems: what could not be had, one line each.
    """

    def __init__(self, url: str, *, page_lines: int = PAGE_LINES, **connection: Unpack[Connection]) -> None:
        super().__init__(url, **connection)
        self._page_lines = page_lines
        self.problems: dict[str, None] = {}

    def streams(self, selector: str, start: datetime, end: datetime) -> list[Stream]:
        """The streams that match ``selector`` and may have lines in the window, in a fixed order.

        Raises:
            SourceError: Loki does not answer, or refuses the selector.
        """
        fields: dict[str, str | list[str]] = {"match[]": [selector], "start": str(_ns(start)), "end": str(_ns(end) + 1)}
        answer = self._http.request("/loki/api/v1/series", fields)
        found = self._data(answer, selector) or []
        every = sorted({name for labels in found for name in labels})
        streams = [Stream(labels, _selector(labels, every)) for labels in found]
        return sorted({stream.selector: stream for stream in streams}.values(), key=lambda stream: stream.selector)

    def pages(self, query: str, start: datetime, end: datetime) -> Iterator[Page]:
        """Every line of ``query`` (a stream's selector, perhaps with filters) from ``start`` to ``end``, both included.

        Raises:
            SourceError: Loki does not answer, or refuses the query.
        """
        from_ns, to_ns = _ns(start), _ns(end)
        limit = self._page_lines
        had: Counter[tuple[str, str]] = Counter()
        while from_ns <= to_ns:
            try:
                entries = self._page(query, from_ns, to_ns, limit)
            except _LimitError as error:
                if error.limit >= limit:
                    raise SourceError(str(error)) from None
                limit = self._page_lines = error.limit
                continue
            fresh = _without(entries, from_ns, had)
            if fresh:
                yield Page([time_ns for time_ns, _, _ in fresh], [line for _, _, line in fresh])
            if len(entries) < limit:
                return
            last_ns = entries[-1][0]
            if last_ns == from_ns and not fresh:
                self.problems.setdefault(f"more than {limit} lines of {query} at one nanosecond: the rest is left out")
                from_ns, had = from_ns + 1, Counter()
                continue
            had = Counter((stream, line) for time_ns, stream, line in entries if time_ns == last_ns)
            from_ns = last_ns

    def _page(self, query: str, from_ns: int, to_ns: int, limit: int) -> list[tuple[int, str, str]]:
        """``(time, labels, line)`` in order of time."""
        fields = {
            "query": query,
            "start": str(from_ns),
            "end": str(to_ns + 1),
            "limit": str(limit),
            "direction": "forward",
        }
        answer = self._http.request("/loki/api/v1/query_range", fields)
        if answer.status == 400 and b"max entries limit" in answer.body:
            raise _LimitError(f"{self._http.url}: {one_line(answer.excerpt)}", _granted(answer.body))
        data = self._data(answer, query)
        if not isinstance(data, dict) or data.get("resultType") != "streams":
            raise SourceError(f"{self._http.url}: expected streams of lines (query: {query})")
        entries = [
            (int(value[0]), repr(sorted(result["stream"].items())), value[1])
            for result in data["result"]
            for value in result["values"]
        ]
        return sorted(entries, key=lambda entry: entry[0])

    def _data(self, answer: Answer, query: str) -> Any:
        document = answer.json()
        if answer.status != 200:
            said = document.get("message") or document.get("error") if isinstance(document, dict) else None
            problem = f"{self._http.url}: HTTP {answer.status}: {one_line(said or answer.excerpt)} (query: {query})"
            raise RefusedError(problem) if answer.status in (400, 422) else SourceError(problem)
        if not isinstance(document, dict) or document.get("status") != "success":
            raise SourceError(f"{self._http.url}: a body that is not Loki's: {answer.excerpt!r}")
        for warning in document.get("warnings") or ():
            self.problems.setdefault(f"Loki warns: {one_line(warning)}")
        return document.get("data")


class _LimitError(SourceError):
    """The server gives fewer lines per page."""

    def __init__(self, problem: str, limit: int) -> None:
        super().__init__(problem)
        self.limit = limit


def _granted(body: bytes) -> int:
    """The limit that Loki names: ``... limit > max_entries_limit (10000 > 5000)``."""
    digits = body.rpartition(b">")[2].strip(b' )"}\n')
    return int(digits) if digits.isdigit() and int(digits) > 0 else 1


def _without(
    entries: list[tuple[int, str, str]], first_ns: int, had: Counter[tuple[str, str]]
) -> list[tuple[int, str, str]]:
    """``entries`` less those of the first nanosecond that the pages before had; equal lines count as often as they
    come."""
    left = Counter(had)
    fresh = []
    for entry in entries:
        time_ns, stream, line = entry
        if time_ns == first_ns and left[stream, line] > 0:
            left[stream, line] -= 1
        else:
            fresh.append(entry)
    return fresh


def _selector(labels: Mapping[str, str], every: list[str]) -> str:
    """Matches these labels and no more: a stream without a label would also be matched by one that has it."""
    parts = (f'{name}="{_escaped(labels.get(name, ""))}"' for name in every)
    return "{" + ",".join(parts) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _ns(moment: datetime) -> int:
    whole = math.floor(moment.timestamp())
    return whole * 1_000_000_000 + moment.microsecond * 1000


def service_of_stream(labels: Mapping[str, str], placement: Placement) -> str | None:
    """The service of a stream, by a label that names it or by its pod; None when it is none of the stack's."""
    for name in (*SERVICE_LABELS, *POD_LABELS):
        service = placement.names.get(labels.get(name, ""))
        if service is not None:
            return service
    return None


def access_log_entries(
    client: LokiClient,
    selector: str,
    placement: Placement,
    gateway: str,
    start: datetime,
    end: datetime,
    left_out: LeftOut | None = None,
) -> pd.DataFrame:
    """The gateway's access log (one JSON object per request) as ``spans.read_access_log`` gives it.

    Raises:
        SourceError: Loki does not answer.
    """
    frames = []
    for stream in client.streams(selector, start, end):
        if service_of_stream(stream.labels, placement) != gateway:
            continue
        for page in client.pages(f"{stream.selector} {ACCESS_LOG_FILTER}", start, end):
            frames.append(access_entries(page.lines, _ns(start), _ns(end), left_out))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["time"])
