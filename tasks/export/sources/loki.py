"""Client of Loki: reads log lines stream by stream and page by page, each exactly once.

Pages go forward in time. Loki has no cursor, and many lines may share one nanosecond, so the next page begins at the
last time of the previous page, and lines of that nanosecond already read are dropped. Each stream is paged by itself: a
page over several streams would be filled by the busiest one.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

import pandas as pd

from tasks.export.sources.access_log import access_entries
from tasks.export.sources.http import (
    Answer,
    Connection,
    RefusedError,
    SourceError,
    TelemetryClient,
    message_lines,
    one_line,
)
from tasks.export.sources.placement import Placement
from tasks.export.values import whole_number
from tasks.left_out import LeftOut

log = logging.getLogger(__name__)

PAGE_LINES = 5000
"""Loki's default ``max_entries_limit_per_query``; a server that grants less says so and gets smaller pages."""
SHORTEST_NS = 1_000_000_000
"""Shortest time range of a query (ns); queries that are still too large ask for smaller pages."""
_PAGE_LIMIT = re.compile(r"(?i)max[ _]entries[ _]limit")
_ASKED_AND_GRANTED = re.compile(r"([0-9]{1,15})\s*>\s*([0-9]{1,15})")
_TOO_MUCH = re.compile(
    r"(?i)too (many bytes|large)|exceeds the limit|larger than max|tim(ed|e) ?-?out|timeout|deadline exceeded"
)
_BUSY = re.compile(r"(?i)outstanding|concurrent|unavailable|rate limit|too many requests|upstream|connect")
ACCESS_LOG_FILTER = '|= "\\"request_time\\""'
SERVICE_LABELS = ("service", "app", "service_name", "k8s_app", "component", "container", "job")
POD_LABELS = ("pod", "k8s_pod_name", "pod_name", "instance", "kubernetes_pod_name")


@dataclass(frozen=True)
class Stream:
    """One stream: its labels, and the LogQL selector that matches no other stream."""

    labels: Mapping[str, str]
    selector: str


@dataclass(frozen=True)
class Page:
    """Lines of one stream in order: ``times_ns`` and ``lines`` of equal length."""

    times_ns: list[int]
    lines: list[str]


class LokiClient(TelemetryClient):
    """Client of one Loki over a kept-open connection; retries transient failures (see ``HttpClient``).

    Attributes:
        left_out: unusable parts of the answers.
    """

    def __init__(self, url: str, *, page_lines: int = PAGE_LINES, **connection: Unpack[Connection]) -> None:
        super().__init__(url, **connection)
        self._page_lines = page_lines
        self.left_out = LeftOut()

    @property
    def problems(self) -> list[str]:
        """Warnings of the server and unreadable parts, one line each."""
        return self.left_out.problems

    def streams(self, selector: str, start: datetime, end: datetime) -> list[Stream]:
        """Return the streams that match ``selector`` and may have lines in the window, in a fixed order.

        Raises:
            SourceError: Loki does not answer, or refuses the selector.
        """
        fields: dict[str, str | list[str]] = {"match[]": [selector], "start": str(_ns(start)), "end": str(_ns(end) + 1)}
        answer = self._http.request("/loki/api/v1/series", fields)
        found = self._data(answer, selector)
        if found is None:
            return []  # Loki 2 says so of no streams
        if not isinstance(found, list) or not all(_is_labels(labels) for labels in found):
            raise SourceError(f"{self._http.url}: expected the labels of streams (query: {selector})")
        every = sorted({name for labels in found for name in labels})
        streams = [Stream(labels, _selector(labels, every)) for labels in found]
        return sorted({stream.selector: stream for stream in streams}.values(), key=lambda stream: stream.selector)

    def pages(self, query: str, start: datetime, end: datetime) -> Iterator[Page]:
        """Yield every line of ``query`` (a stream's selector, perhaps with filters) from ``start`` to ``end``,
        inclusive.

        A query that is too large for the server is repeated for half the time, down to a second, or for a smaller page.

        Raises:
            SourceError: Loki does not answer, or refuses the query.
        """
        from_ns, to_ns = _ns(start), _ns(end)
        limit, longest_ns = self._page_lines, to_ns - from_ns + 1
        had: Counter[tuple[str, str]] = Counter()
        refused = False
        while from_ns <= to_ns:
            until_ns = min(to_ns, from_ns + longest_ns - 1)
            try:
                entries, full = self._page(query, from_ns, until_ns, limit)
            except _LimitError as error:
                if limit == 1:
                    raise SourceError(str(error)) from None
                # After a refusal a granted limit is not this server's: halve instead.
                trusted = error.granted is not None and error.granted < limit and not refused
                limit = self._page_lines = error.granted if trusted and error.granted else limit // 2
                refused = True
                continue
            except _TooMuchError as error:
                if longest_ns > SHORTEST_NS:
                    longest_ns = max(SHORTEST_NS, (until_ns - from_ns + 1) // 2)
                elif limit > 1:
                    limit = self._page_lines = limit // 2
                else:
                    raise SourceError(str(error)) from None
                log.info("Loki cannot answer for %s at once, asking for less", query)
                continue
            fresh = _new_entries(entries, from_ns, had)
            if fresh:
                yield Page([time_ns for time_ns, _, _ in fresh], [line for _, _, line in fresh])
            if not full:
                from_ns, had = until_ns + 1, Counter()
                continue
            if not entries:
                raise SourceError(f"{self._http.url}: a page without a single line that can be read (query: {query})")
            last_ns = entries[-1][0]
            if last_ns == from_ns and not fresh:
                self.left_out.problem(f"more than {limit} lines of {query} at one nanosecond: the rest is left out")
                from_ns, had = from_ns + 1, Counter()
                continue
            had = Counter((stream, line) for time_ns, stream, line in entries if time_ns == last_ns)
            from_ns = last_ns

    def _page(self, query: str, from_ns: int, to_ns: int, limit: int) -> tuple[list[tuple[int, str, str]], bool]:
        """Return ``(time, labels, line)`` in order of time, and whether there may be more."""
        fields = {
            "query": query,
            "start": str(from_ns),
            "end": str(to_ns + 1),
            "limit": str(limit),
            "direction": "forward",
        }
        answer = self._http.request("/loki/api/v1/query_range", fields, final=_is_limit_or_too_much)
        if answer.status != 200 and _PAGE_LIMIT.search(text := _refusal_text(answer)):
            raise _LimitError(f"{self._http.url}: {one_line(text)}", _granted(text, limit))
        data = self._data(answer, query)
        if (
            not isinstance(data, dict)
            or data.get("resultType") != "streams"
            or not isinstance(data.get("result"), list)
        ):
            raise SourceError(f"{self._http.url}: expected streams of lines (query: {query})")
        entries, lines = [], 0
        for result in data["result"]:
            if not isinstance(result, dict) or not isinstance(result.get("values"), list):
                raise SourceError(f"{self._http.url}: expected streams of lines (query: {query})")
            stream = result.get("stream")
            labels = repr(sorted(stream.items())) if isinstance(stream, dict) else ""
            lines += len(result["values"])
            for value in result["values"]:
                # A third element holds the line's structured metadata.
                time_ns = whole_number(value[0]) if isinstance(value, list) and len(value) in (2, 3) else None
                if time_ns is None or not isinstance(value[1], str):
                    self.left_out.count("Loki", "a line without a time or text")
                elif from_ns <= time_ns <= to_ns:
                    entries.append((time_ns, labels, value[1]))
                else:
                    self.left_out.count("Loki", "a line outside of the asked time")
        return sorted(entries, key=lambda entry: entry[0]), lines >= limit

    def _data(self, answer: Answer, query: str) -> Any:
        document = answer.json()
        if answer.status != 200:
            problem = f"{self._http.url}: HTTP {answer.status}: {one_line(_refusal_text(answer))} (query: {query})"
            if _is_limit_or_too_much(answer):
                raise _TooMuchError(problem)
            raise RefusedError(problem) if answer.status in (400, 422) else SourceError(problem)
        if not isinstance(document, dict) or document.get("status") != "success":
            raise SourceError(f"{self._http.url}: a body that is not Loki's: {answer.excerpt!r}")
        for warning in message_lines(document.get("warnings")):
            self.left_out.problem(f"Loki warns: {warning}")
        return document.get("data")


class _LimitError(SourceError):
    """The server allows fewer lines per page: ``granted``, None where it does not say how many."""

    def __init__(self, problem: str, granted: int | None) -> None:
        super().__init__(problem)
        self.granted = granted


class _TooMuchError(SourceError):
    """The query is too large; the server may answer it for a shorter time."""


def _refusal_text(answer: Answer) -> str:
    """Return the text of a refusal: plain, or the message within JSON."""
    document = answer.json()
    text = document.get("message") or document.get("error") if isinstance(document, dict) else document
    return text if isinstance(text, str) else answer.body[:2000].decode("utf-8", "replace")


def _is_limit_or_too_much(answer: Answer) -> bool:
    """Return whether the server may answer a smaller query. A busy server may answer the same one later."""
    text = _refusal_text(answer)
    if answer.status in (200, 429) or text.lstrip().startswith("<") or _BUSY.search(text):
        return False
    return _PAGE_LIMIT.search(text) is not None or _TOO_MUCH.search(text) is not None


def _granted(text: str, asked: int) -> int | None:
    """Return the limit that Loki names: ``... limit > max_entries_limit_per_query (10000 > 5000)``."""
    pairs = [(int(a), int(b)) for a, b in _ASKED_AND_GRANTED.findall(text)]
    fitting = [granted for wanted, granted in pairs if wanted == asked and granted > 0]
    return fitting[0] if fitting else None


def _is_labels(labels: object) -> bool:
    return isinstance(labels, dict) and all(isinstance(value, str) for value in labels.values())


def _new_entries(
    entries: list[tuple[int, str, str]], first_ns: int, had: Counter[tuple[str, str]]
) -> list[tuple[int, str, str]]:
    """Return ``entries`` without those of the first nanosecond in ``had``, which counts entries of earlier pages."""
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
    """Return a selector of exactly these labels: those of ``every`` that the stream lacks must be empty."""
    parts = (f'{name}="{_escaped(labels.get(name, ""))}"' for name in every)
    return "{" + ",".join(parts) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _ns(moment: datetime) -> int:
    whole = math.floor(moment.timestamp())
    return whole * 1_000_000_000 + moment.microsecond * 1000


def service_of_stream(labels: Mapping[str, str], placement: Placement) -> str | None:
    """Return the service of a stream, by a label that names it or by its pod; None for streams of others."""
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
    """Return the gateway's access log (one JSON object per request) in the form of ``read_access_log``.

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
