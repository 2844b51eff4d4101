"""OTLP spans in files -> rows.

A file holds what the local receiver writes (``tasks.deploy.local.otlp_receiver``) or what the OpenTelemetry collector's
file exporter writes: JSON, one request per line, or messages (JSON or protobuf, each perhaps zstd) that follow their
length in four bytes; the whole file may be gzip or zstd. The collector rotates: the current file is renamed and a new
one begun, so a directory may be given, and files are told apart by inode.

What is no span as OpenTelemetry defines it (a line that is not JSON, a span without a time, an identifier that is not
hexadecimal) is counted and left out, and the reading goes on; an odd attribute costs that attribute, not its span.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.deploy.local.otlp_receiver import HEADER, read_requests
from tasks.export.left_out import LeftOut
from tasks.export.values import LARGEST_INT32, LARGEST_INT64, real_number, whole_number

log = logging.getLogger(__name__)

SERVICE_ATTRIBUTES = ("k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip", "service.name", "host.name")
"""Resource attributes that may name the service, in order; the first that names a service of the stack counts."""
NAMESPACE_ATTRIBUTE = "k8s.namespace.name"
HTTP_STATUS_ATTRIBUTES = ("http.response.status_code", "http.status_code")
COLUMNS = ("trace_id", "span_id", "parent_span_id", "service", "operation", "start", "duration", "status_code")

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
HEAD_BYTES = 4096
LARGEST_MESSAGE = 256 * 2**20
DEEPEST_VALUE = 32
"""Lists and maps within an attribute; what is nested deeper is left out."""
LISTINGS = 3
"""A directory is listed again until it holds nothing new, at most this often: a rotation may come in between."""

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_CODES = ("unset", "ok", "error")
_STATUS_ERROR = 2
_LENGTH = struct.Struct(">I")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_ODD = object()
"""Stands for a value that is none of OTLP's."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class SpanFilter:
    """Spans that overlap ``[from_ns, to_ns]``; requests that arrived until ``received_to_ns`` where that is known.
    ``names``: service, pod, address ... -> service, of pods in ``namespace`` where a span names one."""

    names: Mapping[str, str]
    from_ns: int = 0
    to_ns: int = 2**63 - 1
    received_to_ns: int = 2**64 - 1
    namespace: str | None = None

    def service_of(self, resource: Mapping[str, Any]) -> str:
        namespace = resource.get(NAMESPACE_ATTRIBUTE)
        if self.namespace and namespace is not None and namespace != self.namespace:
            return f"{namespace}/{resource.get('service.name', 'unknown')}"
        said = [str(resource[key]) for key in SERVICE_ATTRIBUTES if resource.get(key) is not None]
        return next((self.names[name] for name in said if name in self.names), said[0] if said else "unknown")

    def wants(self, start_ns: int, end_ns: int) -> bool:
        return max(start_ns, end_ns) >= self.from_ns and start_ns <= self.to_ns


def read_otlp(paths: Iterable[Path], wanted: SpanFilter, left_out: LeftOut | None = None) -> pd.DataFrame:
    """Spans of all files and of all files below all directories; a path that does not exist has none.

    Args:
        left_out: what could not be read is counted here.

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


def decode_requests(
    payloads: Iterable[bytes], wanted: SpanFilter, left_out: LeftOut | None = None, place: str = "OTLP"
) -> pd.DataFrame:
    """Serialized ``ExportTraceServiceRequest`` messages as rows; a message that cannot be decoded is left out."""
    reader = SpanReader(wanted, place, LeftOut() if left_out is None else left_out)
    return span_frame(chain.from_iterable(map(reader.message_rows, payloads)))


def span_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """``COLUMNS``, ``attributes``, ``upstream_s`` of each row."""
    frame = pd.DataFrame.from_records(list(rows), columns=[*COLUMNS, "attributes", "upstream_s"])
    return frame.astype(
        {
            "trace_id": "string",
            "span_id": "string",
            "parent_span_id": "string",
            "service": "string",
            "operation": "string",
            "duration": "float64",
            "attributes": "string",
            "upstream_s": "float64",
        }
    ).assign(
        start=pd.to_datetime(frame["start"].astype("int64"), unit="ns", utc=True),
        status_code=status_codes(frame["status_code"]),
    )


def status_codes(values: pd.Series) -> pd.Series:
    """Numbers, or text that is one, as Int32; null for anything else."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    whole = numbers.where(numbers.mod(1).eq(0) & numbers.abs().le(LARGEST_INT32))
    return whole.astype("Int32")


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
            yield from reader.stream_rows(stream)
            return
    wanted = reader.wanted
    for payload in read_requests(path, wanted.from_ns, wanted.received_to_ns, reader.damaged_record):
        yield from reader.message_rows(payload)


def _is_received(path: Path) -> bool:
    """Whether the local receiver wrote the file: one of its first records has a checksum that fits. (The others may
    have been damaged on the way.)"""
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


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Peekable(_Readable, Protocol):
    def peek(self, size: int, /) -> bytes: ...


class _Decompressed:
    """What a compressed stream holds, up to where it is damaged; only then is the error raised. (Arrow drops what it
    had of a read when that fails: the reads are small.)"""

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
        """Each line, and whether it has its end."""
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


def _form(head: bytes) -> str:
    """What a file that starts with ``head`` holds: ``lines``, ``messages`` or ``neither``."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or text.startswith(b"{"):
        return "lines"
    if len(head) > _LENGTH.size:
        (length,) = _LENGTH.unpack_from(head)
        if head[0] == 0 or (length <= LARGEST_MESSAGE and head[_LENGTH.size : _LENGTH.size + 1] in (b"\n", b"{", b"(")):
            return "messages"
    return "lines" if b"\x00" not in head and (b"{" in head or text.isascii()) else "neither"


@dataclass
class SpanReader:
    """Rows in the form of ``span_frame`` from what one file holds.

    Args:
        wanted: which spans.
        place: the file's name, for what is left out.
        left_out: counts that.
    """

    wanted: SpanFilter
    place: str
    left_out: LeftOut = field(default_factory=LeftOut)

    def odd(self, what: str) -> None:
        self.left_out.count(self.place, what)

    def damaged_record(self) -> None:
        self.odd("a damaged record of the receiver")

    def stream_rows(self, stream: _Peekable) -> Iterator[Row]:
        """Spans of a whole file, whatever its form and compression."""
        head = stream.peek(HEAD_BYTES)
        codec = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else None
        if codec is None:
            yield from self._plain_rows(stream)
            return
        try:
            with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec) as plain:
                yield from self._plain_rows(_Decompressed(plain))
        except (pa.ArrowException, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the content
            log.warning("%s: damaged or cut off: %s", self.place, error)
            self.odd("a rest that is damaged or cut off")

    def _plain_rows(self, stream: _Readable) -> Iterator[Row]:
        head = stream.read(HEAD_BYTES)
        rest = _Prefixed(head, stream)
        form = _form(head)
        if form == "neither":
            log.warning("%s: is not a file of OTLP spans", self.place)
            self.left_out.note(f"{self.place} is not a file of OTLP spans")
        elif form == "lines":
            for line, ended in rest.lines():
                yield from self.line_rows(line, ended)
        else:
            yield from self._prefixed_rows(rest)

    def _prefixed_rows(self, stream: _Prefixed) -> Iterator[Row]:
        while len(prefix := stream.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(prefix)
            if length > LARGEST_MESSAGE:
                log.warning("%s: is not a file of OTLP spans, or damaged", self.place)
                self.odd("a rest after a length that cannot be")
                return
            message = stream.read(length)
            if len(message) < length:
                self._note_cut()
                return
            yield from self.message_rows(message)

    def _note_cut(self) -> None:
        self.left_out.note(f"{self.place} ends within a line or message: it is being written, or was cut off")

    def message_rows(self, message: bytes) -> Iterator[Row]:
        """Spans of one export request: JSON or protobuf, perhaps zstd."""
        if message.startswith(ZSTD):
            try:
                with pa.CompressedInputStream(pa.BufferReader(message), "zstd") as plain:
                    message = plain.read(LARGEST_MESSAGE + 1)
            except (pa.ArrowException, EOFError, OSError):
                self.odd("a message that cannot be decompressed")
                return
            if len(message) > LARGEST_MESSAGE:
                self.odd("a message that is too large")
                return
        if message[:1] == b"{":
            yield from self.line_rows(message)
            return
        try:
            request = ExportTraceServiceRequest.FromString(message)
        except DecodeError:
            self.odd("an export request that cannot be decoded")
            return
        yield from self._proto_rows(request)

    def line_rows(self, line: bytes, ended: bool = True) -> Iterator[Row]:
        """Spans of one export request as OTLP JSON."""
        line = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not line:
            return
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not ended:
                self._note_cut()
                return
            log.warning("%s: a line of %d bytes is not JSON", self.place, len(line))
            self.odd("a line that is not JSON")
            return
        if not isinstance(document, dict):
            self.odd("a line that is no export request")
            return
        for resource_spans in self._objects(document, "resourceSpans"):
            resource = resource_spans.get("resource")
            service = self.wanted.service_of(
                self._attributes(resource.get("attributes") if isinstance(resource, dict) else None)
            )
            for scope_spans in self._objects(resource_spans, "scopeSpans"):
                for span in self._objects(scope_spans, "spans"):
                    start, end = whole_number(span.get("startTimeUnixNano")), whole_number(span.get("endTimeUnixNano"))
                    if not self._takes(start, end):
                        continue
                    status = span.get("status")
                    status = status if isinstance(status, dict) else {}
                    row = self._row(
                        (span.get("traceId"), span.get("spanId"), span.get("parentSpanId")),
                        service,
                        span.get("name"),
                        (start, end),  # type: ignore[arg-type]  # _takes has seen that both are numbers
                        self._code(span.get("kind"), "SPAN_KIND_", _KINDS, "a span's kind that is unknown"),
                        self._code(status.get("code"), "STATUS_CODE_", _STATUS_CODES, "a status code that is unknown"),
                        status.get("message"),
                        self._attributes(span.get("attributes")),
                    )
                    if row is not None:
                        yield row

    def _proto_rows(self, request: Any) -> Iterator[Row]:
        for resource_spans in request.resource_spans:
            service = self.wanted.service_of(self._proto_attributes(resource_spans.resource.attributes))
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    start, end = span.start_time_unix_nano, span.end_time_unix_nano
                    if not self._takes(start, end):
                        continue
                    row = self._row(
                        (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()),
                        service,
                        span.name,
                        (start, end),
                        self._code(span.kind, "", _KINDS, "a span's kind that is unknown"),
                        self._code(span.status.code, "", _STATUS_CODES, "a status code that is unknown"),
                        span.status.message,
                        self._proto_attributes(span.attributes),
                    )
                    if row is not None:
                        yield row

    def _takes(self, start_ns: int | None, end_ns: int | None) -> bool:
        """Whether a span has times, and they are wanted."""
        if start_ns is None or end_ns is None or not 0 < start_ns <= LARGEST_INT64 or not 0 < end_ns <= LARGEST_INT64:
            self.odd("a span whose start or end is no time")
            return False
        return self.wanted.wants(start_ns, end_ns)

    def _row(
        self,
        ids: tuple[Any, Any, Any],
        service: str,
        name: Any,
        times_ns: tuple[int, int],
        kind: int,
        status_code: int,
        status_message: Any,
        attributes: dict[str, Any],
    ) -> Row | None:
        trace_id, span_id, parent_id = (text.lower() if isinstance(text, str) else text for text in ids)
        if not isinstance(trace_id, str) or not _TRACE_ID.fullmatch(trace_id):
            self.odd("a span whose trace id is not 16 bytes in hexadecimal")
            return None
        if not isinstance(span_id, str) or not _SPAN_ID.fullmatch(span_id):
            self.odd("a span whose id is not 8 bytes in hexadecimal")
            return None
        if parent_id and not (isinstance(parent_id, str) and _SPAN_ID.fullmatch(parent_id)):
            self.odd("a parent's id that is not 8 bytes in hexadecimal")
            parent_id = None
        status = self._http_status(attributes)
        if status is None and status_code == _STATUS_ERROR:
            status = 500
        if kind:
            attributes["span.kind"] = _KINDS[kind]
        if status_message and isinstance(status_message, str):
            attributes["status.message"] = status_message
        start_ns, end_ns = times_ns
        return (
            trace_id,
            span_id,
            parent_id or None,
            service,
            name if isinstance(name, str) else "",
            start_ns,
            max(0, end_ns - start_ns) / 1e9,
            status,
            orjson.dumps(attributes).decode(),
            np.nan,
        )

    def _http_status(self, attributes: Mapping[str, Any]) -> int | None:
        for key in HTTP_STATUS_ATTRIBUTES:
            if attributes.get(key) is not None:
                status = whole_number(attributes[key])
                if status is not None and abs(status) <= LARGEST_INT32:
                    return status
                self.odd("an HTTP status that is no whole number")
        return None

    def _code(self, value: Any, prefix: str, names: tuple[str, ...], odd: str) -> int:
        """OTLP JSON has numbers for enumerations; older writers spell them out."""
        if value is None:
            return 0
        if isinstance(value, str) and value.startswith(prefix) and value.removeprefix(prefix).lower() in names:
            return names.index(value.removeprefix(prefix).lower())
        number = whole_number(value)
        if number is not None and 0 <= number < len(names):
            return number
        self.odd(odd)
        return 0

    def _objects(self, parent: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
        """The objects in a list; what is none is counted."""
        value = parent.get(key)
        if isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    yield item
                else:
                    self.odd(f"an entry of {key} that is no object")
        elif value is not None:
            self.odd(f"{key} that is no list")

    def _attributes(self, pairs: Any, depth: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if pairs is None:
            return found
        if not isinstance(pairs, list):
            self.odd("attributes that is no list")
            return found
        for pair in pairs:
            if type(pair) is not dict:
                self.odd("an entry of attributes that is no object")
                continue
            key, value = pair.get("key"), pair.get("value")
            text = value.get("stringValue") if type(value) is dict and len(value) == 1 else None
            decoded = text if type(text) is str else self._value(value, depth)
            if type(key) is not str:
                self.odd("an attribute without a key")
            elif decoded is _ODD:
                self.odd("an attribute whose value is none of OTLP's")
            else:
                found[key] = decoded
        return found

    def _value(self, value: Any, depth: int) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict) or depth > DEEPEST_VALUE:
            return _ODD
        for kind, content in value.items():
            if kind == "arrayValue" and isinstance(content, dict):
                listed = content.get("values")
                if listed is not None and not isinstance(listed, list):
                    return _ODD
                items = [self._value(item, depth + 1) for item in listed or ()]
                return _ODD if any(item is _ODD for item in items) else items
            if kind == "kvlistValue" and isinstance(content, dict):
                return self._attributes(content.get("values"), depth + 1)
            decode = _SCALARS.get(kind)
            if decode is not None:
                return decode(content)
        return None if not value else _ODD

    def _proto_attributes(self, pairs: Iterable[Any], depth: int = 0) -> dict[str, Any]:
        found = {}
        for pair in pairs:
            value = self._proto_value(pair.value, depth)
            if value is _ODD:
                self.odd("an attribute whose value is none of OTLP's")
            else:
                found[pair.key] = value
        return found

    def _proto_value(self, value: Any, depth: int) -> Any:
        kind = value.WhichOneof("value")
        if depth > DEEPEST_VALUE:
            return _ODD
        if kind == "array_value":
            items = [self._proto_value(item, depth + 1) for item in value.array_value.values]
            return _ODD if any(item is _ODD for item in items) else items
        if kind == "kvlist_value":
            return self._proto_attributes(value.kvlist_value.values, depth + 1)
        if kind == "bytes_value":
            return value.bytes_value.hex()
        return getattr(value, kind) if kind else None


def _text(content: Any) -> Any:
    if isinstance(content, bool):
        return str(content).lower()
    return str(content) if isinstance(content, str | int | float) else _ODD


def _boolean(content: Any) -> Any:
    if isinstance(content, bool):
        return content
    return content == "true" if content in ("true", "false") else _ODD


def _integer(content: Any) -> Any:
    number = whole_number(content)
    return number if number is not None and -LARGEST_INT64 - 1 <= number <= LARGEST_INT64 else _ODD


def _real(content: Any) -> Any:
    number = real_number(content)
    return _ODD if number is None else number


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "stringValue": _text,
    "boolValue": _boolean,
    "intValue": _integer,
    "doubleValue": _real,
    "bytesValue": lambda content: content if isinstance(content, str) else _ODD,
}
