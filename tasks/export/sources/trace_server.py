"""What the servers that hold a stack's spans have in common (:mod:`tasks.export.trace_servers`).

A search for traces has a limit and no order, so a window is asked for in parts, each with its share of the limit. The
parts are asked for in an order that leaves gaps all over the window, not at one end, when time runs out.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, Unpack

from tasks.export.sources.http import Answer, Connection, RefusedError, SourceError, TelemetryClient, one_line
from tasks.export.sources.otlp import Row, SpanFilter
from tasks.export.trace_servers import GROUP
from tasks.left_out import LeftOut
from tasks.plugins import Registry
from tasks.text import some

MOST_TRACES = 2000
"""Default of ``deploy.traces.limit``."""
PARTS = 16
SHORTEST_PART_NS = 1_000_000_000
LONGEST_READ_S = 20.0
"""What was not read in this time is left out."""
MOST_UNKNOWN = 20
"""So many services are asked for if none of them has the name of a service of the stack."""


class Reading(Connection, total=False):
    """Arguments of ``TraceServer``."""

    services: tuple[str, ...]
    limit: int


class TraceServer(TelemetryClient, ABC):
    """A client of a server that holds spans.

    Args:
        services: what its services are called that are asked for; empty: those with names of services of the stack.
        limit: the most traces of one reading.
    """

    title = ""
    """Its name for people."""

    def __init__(
        self, url: str, *, services: tuple[str, ...] = (), limit: int = MOST_TRACES, **connection: Unpack[Connection]
    ) -> None:
        super().__init__(url, **connection)
        self._services = services
        self._limit = limit

    @abstractmethod
    def rows(self, wanted: SpanFilter, left_out: LeftOut | None = None) -> Iterator[Row]:
        """Yield spans as rows of ``otlp.span_frame``; a span may come twice.

        Args:
            left_out: what could not be read is counted here.

        Raises:
            SourceError: the server does not answer, or answers as another kind of server.
        """

    @abstractmethod
    def look(self, wanted: SpanFilter) -> tuple[bool, str]:
        """Return whether it has something of the stack, and one line that says what. Raises SourceError."""


Class = TypeVar("Class", bound=type[TraceServer])
TRACE_SERVERS: Registry[type[TraceServer]] = Registry("kind of trace server", GROUP, ["tasks.export.trace_servers"])


def trace_server(name: str) -> Callable[[Class], Class]:
    """Register a class as the client of a kind of server. Its module has the same name."""

    def register(entry: Class) -> Class:
        TRACE_SERVERS.register(name, entry, entry.__module__)
        return entry

    return register


@dataclass(frozen=True)
class Part:
    """A part of a window, both ends inclusive (ns), and how many traces of it are asked for."""

    from_ns: int
    to_ns: int
    limit: int


def parts_of(wanted: SpanFilter, limit: int) -> list[Part]:
    """Return the parts of the window of ``wanted``, in the order in which they are read."""
    length = wanted.to_ns - wanted.from_ns + 1
    count = max(1, min(PARTS, length // SHORTEST_PART_NS))
    edges = [wanted.from_ns + length * number // count for number in range(count + 1)]
    parts = [Part(first, last - 1, max(1, limit // count)) for first, last in pairwise(edges)]
    return [parts[number] for number in _scattered(count)]


def _scattered(count: int) -> list[int]:
    """Return ``0 … count - 1`` such that every beginning of the list is spread over all of it."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: f"{number:0{bits}b}"[::-1])


class SearchServer(TraceServer):
    """A server whose traces are found by services and times, a limited number at a time."""

    def rows(self, wanted: SpanFilter, left_out: LeftOut | None = None) -> Iterator[Row]:
        left_out = LeftOut() if left_out is None else left_out
        asked = self._asked(wanted, self.services(wanted))
        if not asked:
            _, text = self.look(wanted)
            left_out.problem(f"{self.title}: {text}")
            return
        seen: set[str] = set()
        parts = parts_of(wanted, self._limit)
        deadline = time.monotonic() + LONGEST_READ_S
        full = 0
        for number, part in enumerate(parts):
            if time.monotonic() > deadline:
                left_out.sampled = True
                rest = len(parts) - number
                left_out.problem(
                    f"{self.title}: slow: {rest} of {len(parts)} parts of the window were not read in "
                    f"{LONGEST_READ_S:g} s; a lower deploy.traces.limit asks for less"
                )
                break
            had_all = yield from self.part_rows(part, asked, wanted, seen, deadline, left_out)
            full += not had_all
        if full:
            left_out.sampled = True
            left_out.problem(
                f"{self.title}: more traces than deploy.traces.limit ({self._limit}) in {full} of {len(parts)} parts "
                "of the window: the rest is left out"
            )

    @abstractmethod
    def services(self, wanted: SpanFilter) -> list[str]:
        """Return the names of the services that the server has, of the window where it can. Raises SourceError."""

    @abstractmethod
    def part_rows(
        self,
        part: Part,
        services: list[str],
        wanted: SpanFilter,
        seen: set[str],
        deadline: float,
        left_out: LeftOut,
    ) -> Generator[Row, None, bool]:
        """Yield the spans of traces of ``services`` in a part; a generator that returns whether that was all.

        Args:
            seen: ids of traces that were read; those of this part are added.
            deadline: of ``time.monotonic()``, after which nothing more is asked for.
        """

    def look(self, wanted: SpanFilter) -> tuple[bool, str]:
        found = self.services(wanted)
        asked = self._asked(wanted, found)
        missing = [name for name in self._services if name not in found]
        if not found:
            return False, "no service has sent a span"
        if missing:
            return False, f"no spans of {some(missing, 5)}; it has {some(found, 10)}"
        if not asked:
            return False, (
                f"none of its {len(found)} services has the name of a service of the stack: give deploy.traces.services"
                f" (it has {some(found, 10)})"
            )
        return True, f"{len(asked)} of {len(found)} services: {some(asked, 10)}"

    def _asked(self, wanted: SpanFilter, found: list[str]) -> list[str]:
        """Return the services to ask for. Engines are often called the same in all replicas, and told by their pods: if
        there are few services, all of them are asked for."""
        if self._services:
            return list(self._services)
        known = [name for name in found if name in wanted.names]
        return found if len(found) <= MOST_UNKNOWN else known

    def _document(self, answer: Answer, what: str) -> Any:
        """Return the JSON object of an answer. Raises SourceError: it is refused, or no object."""
        document = answer.json()
        if answer.status != 200:
            text = f"{self._http.url}: HTTP {answer.status} for {what}: {one_line(answer.excerpt) or 'no text'}"
            raise RefusedError(text) if answer.status in (400, 422) else SourceError(text)
        if not isinstance(document, dict):
            raise SourceError(f"{self._http.url}: a body that is not {self.title}'s: {answer.excerpt!r}")
        return document
