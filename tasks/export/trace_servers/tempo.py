"""Grafana Tempo: finds traces by TraceQL, and reads each as OTLP protobuf.

API: https://grafana.com/docs/tempo/latest/api_docs/. A search returns ids and what matched, in no order; a trace by its
id is whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

from tasks.export.sources.http import Answer, SourceError, one_line
from tasks.export.sources.otlp import Row, SpanFilter, SpanReader
from tasks.export.sources.trace_server import Part, Reading, SearchServer, trace_server
from tasks.left_out import LeftOut

AT_ONCE = 8
"""Traces that are read side by side."""
AROUND_S = 900
"""A trace is looked up in blocks of so much time around its part of the window."""
FAILED_IN_A_ROW = 3
"""So many traces without an answer, and none with one, are a server that fails; fewer are traces it cannot read."""
LONGEST_QUERY = 3000
_SECOND = 1_000_000_000
_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")


@trace_server("tempo")
class Tempo(SearchServer):
    title = "Tempo"

    def __init__(self, url: str, **reading: Unpack[Reading]) -> None:
        reading.setdefault("connections", AT_ONCE)
        super().__init__(url, **reading)
        self._answered = False
        self._failed = 0

    def services(self, wanted: SpanFilter) -> list[str]:
        document = self._get("/api/v2/search/tag/resource.service.name/values", {}, wanted.from_ns, wanted.to_ns)
        values = document.get("tagValues", [])
        if not isinstance(values, list):
            raise SourceError(f"{self._http.url}: tagValues of {self.title} is no list")
        named = (value.get("value") if isinstance(value, dict) else value for value in values)
        return sorted({name for name in named if isinstance(name, str)})

    def part_rows(
        self,
        part: Part,
        services: list[str],
        wanted: SpanFilter,
        seen: set[str],
        deadline: float,
        left_out: LeftOut,
    ) -> Generator[Row, None, bool]:
        found: dict[str, None] = {}
        full = False
        for query in queries_of(services):
            fields = {"q": query, "limit": str(part.limit), "spss": "1"}
            traces = self._get("/api/search", fields, part.from_ns, part.to_ns).get("traces") or []
            if not isinstance(traces, list):
                raise SourceError(f"{self._http.url}: traces of {self.title} is no list")
            full |= len(traces) >= part.limit
            for trace in traces:
                identity = trace.get("traceID") if isinstance(trace, dict) else None
                if isinstance(identity, str) and _TRACE_ID.fullmatch(identity):
                    found.setdefault(identity)
                else:
                    left_out.count(self.title, "a trace without an id")
        fresh = [identity for identity in found if identity not in seen]
        seen.update(fresh)
        reader = SpanReader(wanted, self.title, left_out)

        def read(identity: str) -> Answer | SourceError | None:
            try:
                return None if time.monotonic() > deadline else self._trace(identity, part)
            except SourceError as error:
                return error

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for answer in pool.map(read, fresh):
                if isinstance(answer, SourceError):
                    self._failed += 1
                    if not self._answered and self._failed >= FAILED_IN_A_ROW:
                        raise answer
                    left_out.sampled = True
                    left_out.count(self.title, "a trace that it does not give (no answer after retries)")
                    continue
                self._answered |= answer is not None
                if answer is None:
                    left_out.sampled = True
                    left_out.count(self.title, "a trace for which no time was left")
                elif answer.status == 200 and answer.body.lstrip()[:1] != b"<":
                    yield from reader.message_rows(answer.body)
                elif answer.status == 404:
                    left_out.count(self.title, "a trace that is not there any more")
                else:
                    why = one_line(answer.excerpt) or f"HTTP {answer.status}"
                    left_out.count(self.title, f"a trace that it does not give ({why})")
        return not full

    def _trace(self, identity: str, part: Part) -> Answer:
        fields = {
            "start": str(max(0, part.from_ns // _SECOND - AROUND_S)),
            "end": str(part.to_ns // _SECOND + AROUND_S),
        }
        return self._http.request(f"/api/traces/{identity}", fields, headers={"Accept": "application/protobuf"})

    def _get(self, path: str, fields: dict[str, str], from_ns: int, to_ns: int) -> dict[str, Any]:
        times = {"start": str(max(0, from_ns // _SECOND)), "end": str(to_ns // _SECOND + 1)}
        document = self._document(self._http.request(path, {**fields, **times}), path)
        if not document.keys() & {"traces", "tagValues", "metrics"} and document:
            raise SourceError(f"{self._http.url}: a body that is not {self.title}'s: {one_line(str(document))[:120]!r}")
        return document


def queries_of(services: list[str]) -> list[str]:
    """Return TraceQL that finds the traces in which one of the services has a span; several queries where one would be
    too long for a URL."""
    queries, names = [], list[str]()
    for name in services:
        escaped = re.escape(name).replace(r"\-", "-")
        if names and len("|".join([*names, escaped])) > LONGEST_QUERY:
            queries.append(_query(names))
            names = []
        names.append(escaped)
    return [*queries, _query(names)] if names else queries


def _query(names: list[str]) -> str:
    text = "|".join(names).replace("\\", "\\\\").replace('"', '\\"')
    return f'{{ resource.service.name =~ "{text}" }}'
