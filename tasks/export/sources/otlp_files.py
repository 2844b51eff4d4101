"""Reads OTLP spans from files.

A file comes from the local receiver (``tasks.deploy.local.otlp_receiver``) or the OpenTelemetry collector's file
exporter: JSON, one request per line, or messages (JSON or protobuf, optionally zstd), each after its length in four
bytes; the whole file may be gzip or zstd. The collector rotates files by renaming, so a directory may be given, and
files are identified by inode.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa

from tasks.export.sources.otlp import LARGEST_MESSAGE, ZSTD, Row, SpanFilter, SpanReader, span_frame
from tasks.left_out import LeftOut
from tasks.system.record_file import HEADER, read_records

log = logging.getLogger(__name__)

GZIP = b"\x1f\x8b"
HEAD_BYTES = 4096
LISTINGS = 3
"""Maximum listings of a directory, repeated until nothing is new: a rotation may come in between."""

_LENGTH = struct.Struct(">I")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Peekable(_Readable, Protocol):
    def peek(self, size: int, /) -> bytes: ...


class _Decompressed:
    """Reads a compressed stream up to the damaged part, then raises. Reads are small: Arrow drops the data of a read
    that fails."""

    READ_BYTES = 512

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._error: Exception | None = None

    def read(self, size: int) -> bytes:
        if self._error is not None:
            raise self._error
        pieces, left = [], size
        while left > 0:
            try:
                piece = self._stream.read(min(left, self.READ_BYTES))
            except (pa.ArrowException, EOFError, OSError) as error:
                self._error = error
                break
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        if not pieces and self._error is not None:
            raise self._error
        return b"".join(pieces)


class _Prefixed:
    """A stream with some bytes put back in front."""

    def __init__(self, first: bytes, stream: _Readable) -> None:
        self._rest = first
        self._stream = stream

    def read(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken + self._stream.read(size - len(taken)) if len(taken) < size else taken

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        """Yield each line, and whether it ends with a newline."""
        parts: list[bytes] = []
        while block := self.read(2**20):
            first, *more = block.split(b"\n")
            parts.append(first)
            if more:
                yield b"".join(parts), True
                *whole, last = more
                yield from ((line, True) for line in whole)
                parts = [last]
        yield b"".join(parts), False


def read_otlp(paths: Iterable[Path], wanted: SpanFilter, left_out: LeftOut | None = None) -> pd.DataFrame:
    """Return the spans of all files, and of all files below directories; a path that does not exist has none.

    Args:
        left_out: counts what could not be read.

    Raises:
        OSError: a file is there but cannot be read.
    """
    places = tuple(paths)
    seen: set[tuple[int, int]] = set()
    rows: list[Row] = []
    left_out = LeftOut() if left_out is None else left_out
    for _ in range(LISTINGS):
        fresh = _unseen(places, seen, wanted.from_ns)
        for file in fresh:
            rows += _file_rows(file, SpanReader(wanted, file.name, left_out))
        if not fresh:
            break
    return span_frame(rows)


def _unseen(places: Iterable[Path], seen: set[tuple[int, int]], from_ns: int) -> list[Path]:
    fresh = []
    for path in _files(places):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # rotated away; found by its new name at the next listing
        identity = (status.st_dev, status.st_ino)
        if identity in seen or not status.st_size:
            continue
        seen.add(identity)
        if status.st_mtime_ns >= from_ns:
            fresh.append(path)
    return fresh


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
        elif place.exists():
            yield place


def _file_rows(path: Path, reader: SpanReader) -> Iterator[Row]:
    try:
        stream = BufferedReader(FileIO(path), HEAD_BYTES)
    except FileNotFoundError:
        return  # rotated away
    with stream:
        if not _is_received(path):
            yield from stream_rows(stream, reader)
            return
    wanted = reader.wanted
    for payload in read_records(path, wanted.from_ns, wanted.received_to_ns, reader.damaged_record):
        yield from reader.message_rows(payload)


def _is_received(path: Path) -> bool:
    """Return whether the local receiver wrote the file: the checksum of any of the first records matches."""
    with path.open("rb") as stream:
        for _ in range(4):
            header = stream.read(HEADER.size)
            if len(header) < HEADER.size:
                return False
            length, checksum, _ = HEADER.unpack(header)
            payload = stream.read(length) if length <= LARGEST_MESSAGE else b""
            if len(payload) < length:
                return False
            if zlib.crc32(payload) == checksum:
                return True
    return False


def stream_rows(stream: _Peekable, reader: SpanReader) -> Iterator[Row]:
    """Yield the spans of a whole file, whatever its form and compression."""
    head = stream.peek(HEAD_BYTES)
    codec = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else None
    if codec is None:
        yield from _plain_rows(stream, reader)
        return
    try:
        with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec) as plain:
            yield from _plain_rows(_Decompressed(plain), reader)
    except (pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the content
        log.warning("%s: damaged or cut off: %s", reader.place, error)
        reader.odd("a rest that is damaged or cut off")


def _plain_rows(stream: _Readable, reader: SpanReader) -> Iterator[Row]:
    head = stream.read(HEAD_BYTES)
    rest = _Prefixed(head, stream)
    form = _form(head)
    if form == "neither":
        log.warning("%s: is not a file of OTLP spans", reader.place)
        reader.left_out.note(f"{reader.place} is not a file of OTLP spans")
    elif form == "lines":
        for line, ended in rest.lines():
            yield from reader.line_rows(line, ended)
    else:
        yield from _prefixed_rows(rest, reader)


def _prefixed_rows(stream: _Prefixed, reader: SpanReader) -> Iterator[Row]:
    while len(prefix := stream.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(prefix)
        if length > LARGEST_MESSAGE:
            log.warning("%s: is not a file of OTLP spans, or damaged", reader.place)
            reader.odd("a rest after a length that cannot be")
            return
        message = stream.read(length)
        if len(message) < length:
            reader.note_cut()
            return
        yield from reader.message_rows(message)


def _form(head: bytes) -> str:
    """Return what a file that starts with ``head`` holds: ``lines``, ``messages`` or ``neither``."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or text.startswith(b"{"):
        return "lines"
    if len(head) > _LENGTH.size:
        (length,) = _LENGTH.unpack_from(head)
        if head[0] == 0 or (length <= LARGEST_MESSAGE and head[_LENGTH.size : _LENGTH.size + 1] in (b"\n", b"{", b"(")):
            return "messages"
    return "lines" if b"\x00" not in head and (b"{" in head or text.isascii()) else "neither"
