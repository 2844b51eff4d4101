"""The OpenTelemetry collector's files over HTTP.

A web server beside the collector lists its directory as JSON (NGINX's ``autoindex_format json``) and answers byte
ranges. The current file is renamed when it is full and a new one begun, so the list is read again until it holds no
name that was not read; a file that was read under both names yields its spans twice, and duplicates are dropped later.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Unpack
from urllib.parse import quote

from tasks.export.http import Connection, SourceError, TelemetryClient
from tasks.export.otlp import SpanFilter, line_rows

PIECE_BYTES = 8 * 2**20
LISTINGS = 4


class CollectorFiles(TelemetryClient):
    """Asks one server over a kept-open connection; passing failures are tried again, from where a file was cut."""

    def __init__(self, url: str, *, piece_bytes: int = PIECE_BYTES, **connection: Unpack[Connection]) -> None:
        super().__init__(url, **connection)
        self._piece_bytes = piece_bytes

    def rows(self, wanted: SpanFilter) -> Iterator[tuple[Any, ...]]:
        """Spans of every file that was written to since ``wanted.from_ns``, in the form of ``otlp.span_frame``.

        Raises:
            SourceError: the server does not answer, or does not list the collector's files.
        """
        read: set[str] = set()
        for _ in range(LISTINGS):
            fresh = [name for name in self._names(wanted.from_ns) if name not in read]
            if not fresh:
                return
            for name in fresh:
                read.add(name)
                for line in self._lines(name):
                    yield from line_rows(line, name, wanted)

    def _names(self, from_ns: int) -> list[str]:
        answer = self._http.request("/", {})
        entries = answer.json()
        if answer.status != 200 or not isinstance(entries, list):
            raise SourceError(f"{self._http.url}: HTTP {answer.status} instead of a list of files: {answer.excerpt!r}")
        since = datetime.fromtimestamp(from_ns // 1_000_000_000, UTC)
        return sorted(
            entry["name"]
            for entry in entries
            if entry.get("type") == "file" and parsedate_to_datetime(entry["mtime"]) >= since
        )

    def _lines(self, name: str) -> Iterator[bytes]:
        """Whole lines; what follows the last line end is still being written."""
        rest, position = b"", 0
        while True:
            last = position + self._piece_bytes - 1
            answer = self._http.request(f"/{quote(name)}", {}, headers={"Range": f"bytes={position}-{last}"})
            if answer.status in (404, 416):
                return  # rotated away, or read to its end
            if answer.status not in (200, 206):
                raise SourceError(f"{self._http.url}: {name}: HTTP {answer.status}: {answer.excerpt!r}")
            *whole, rest = (rest + answer.body).split(b"\n")
            yield from whole
            position += len(answer.body)
            if answer.status == 200 or len(answer.body) < self._piece_bytes:
                return
