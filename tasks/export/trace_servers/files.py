"""The OpenTelemetry collector's files over HTTP.

A web server beside the collector lists its directory as JSON (NGINX's ``autoindex_format json``) and answers byte
ranges. The current file is renamed when it is full and a new one begun, so the list is read again until it holds no
name that was not read; a file that was read under both names yields its spans twice, and duplicates are dropped later.
Files have every form that ``otlp`` reads from a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BufferedReader, RawIOBase
from typing import Any, Unpack
from urllib.parse import quote

from tasks.export.sources.http import HttpClient, SourceError
from tasks.export.sources.otlp import Row, SpanFilter, SpanReader
from tasks.export.sources.otlp_files import stream_rows
from tasks.export.sources.trace_server import Reading, TraceServer, trace_server
from tasks.left_out import LeftOut

PIECE_BYTES = 8 * 2**20
LISTINGS = 4


@trace_server("files")
class CollectorFiles(TraceServer):
    """Client of one server over a kept-open connection; retries transient failures from where a file was cut."""

    title = "the collector's files"

    def __init__(self, url: str, *, piece_bytes: int = PIECE_BYTES, **reading: Unpack[Reading]) -> None:
        super().__init__(url, **reading)
        self._piece_bytes = piece_bytes

    def rows(self, wanted: SpanFilter, left_out: LeftOut | None = None) -> Iterator[Row]:
        """Yield the spans of every file written since ``wanted.from_ns``."""
        left_out = LeftOut() if left_out is None else left_out
        read: set[str] = set()
        for _ in range(LISTINGS):
            fresh = [name for name in self._names(wanted.from_ns, left_out) if name not in read]
            if not fresh:
                return
            for name in fresh:
                read.add(name)
                with BufferedReader(_RemoteFile(self._http, name, self._piece_bytes)) as stream:
                    yield from stream_rows(stream, SpanReader(wanted, name, left_out))

    def look(self, wanted: SpanFilter) -> tuple[bool, str]:
        return True, f"{len(self._names(0, LeftOut()))} files"

    def _names(self, from_ns: int, left_out: LeftOut) -> list[str]:
        answer = self._http.request("/", {})
        entries = answer.json()
        if answer.status != 200 or not isinstance(entries, list):
            raise SourceError(f"{self._http.url}: HTTP {answer.status} instead of a list of files: {answer.excerpt!r}")
        since = datetime.fromtimestamp(from_ns // 1_000_000_000, UTC)
        names = set[str]()
        for entry in entries:
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name:
                left_out.count("the list of the collector's files", "an entry without a name")
            elif entry.get("type") == "file" and not name.startswith(".") and _may_be_newer(entry.get("mtime"), since):
                names.add(name)
        return sorted(names)


def _may_be_newer(mtime: Any, since: datetime) -> bool:
    """Return whether a file may have been written after ``since``; True without a usable time."""
    if not isinstance(mtime, str):
        return True
    try:
        changed = parsedate_to_datetime(mtime)
    except ValueError:
        return True
    return (changed if changed.tzinfo else changed.replace(tzinfo=UTC)) >= since


class _RemoteFile(RawIOBase):
    """One file read in pieces. It ends where the server has no more of it, or when it was rotated away."""

    def __init__(self, http: HttpClient, name: str, piece_bytes: int) -> None:
        self._http = http
        self._name = name
        self._piece_bytes = piece_bytes
        self._piece = memoryview(b"")
        self._position = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._piece and not self._ended:
            self._piece = memoryview(self._next())
        size = min(len(buffer), len(self._piece))
        buffer[:size], self._piece = self._piece[:size], self._piece[size:]
        return size

    def _next(self) -> bytes:
        last = self._position + self._piece_bytes - 1
        headers = {"Range": f"bytes={self._position}-{last}"}
        answer = self._http.request(f"/{quote(self._name)}", {}, headers=headers, as_sent=True)
        if answer.status == 206:
            body = answer.body
        elif answer.status == 200:  # a server without ranges: all of it
            body = answer.body[self._position :]
        elif answer.status in (404, 416):  # rotated away, or read to its end
            body = b""
        else:
            raise SourceError(f"{self._http.url}: {self._name}: HTTP {answer.status}: {answer.excerpt!r}")
        self._ended = answer.status != 206 or not body
        self._position += len(body)
        return body
