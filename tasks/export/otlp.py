"""OTLP spans in files -> rows.

A file holds what the local receiver writes (``tasks.deploy.local.otlp_receiver``) or what the OpenTelemetry collector's
file exporter writes: JSON, one request per line, or messages (JSON or protobuf, each perhaps zstd) that follow their
length in four bytes; the whole file may be gzip or zstd. The collector rotates: the current file is renamed and a new
one begun, so a directory may be given, and files are told apart by inode.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.deploy.local.otlp_receiver import HEADER, read_requests

log = logging.getLogger(__name__)

SERVICE_ATTRIBUTES = ("k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip", "service.name", "host.name")
"""Resource attributes that may name the service, in order; the first that names a service of the stack counts."""
NAMESPACE_ATTRIBUTE = "k8s.namespace.name"
HTTP_STATUS_ATTRIBUTES = ("http.response.status_code", "http.status_code")
COLUMNS = ("trace_id", "span_id", "parent_span_id", "service", "operation", "start", "duration", "status_code")

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
LARGEST_MESSAGE = 256 * 2**20
LISTINGS = 3
"""A directory is listed again until it holds nothing new, at most this often: a rotation may come in between."""

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_ERROR = 2
_LENGTH = struct.Struct(">I")


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
        if self.namespace and resource.get(NAMESPACE_ATTRIBUTE, self.namespace) != self.namespace:
            return f"{resource[NAMESPACE_ATTRIBUTE]}/{resource.get('service.name', 'unknown')}"
        said = [str(resource[key]) for key in SERVICE_ATTRIBUTES if key in resource]
        return next((self.names[name] for name in said if name in self.names), said[0] if said else "unknown")

    def wants(self, start_ns: int, end_ns: int) -> bool:
        return max(start_ns, end_ns) >= self.from_ns and start_ns <= self.to_ns


def read_otlp(paths: Iterable[Path], wanted: SpanFilter) -> pd.DataFrame:
    """Spans of all files and of all files below all directories; what is missing or no OTLP is left out.

    Raises:
        OSError: a file is there but cannot be read.
    """
    places = tuple(paths)
    seen: set[tuple[int, int]] = set()
    rows: list[tuple[Any, ...]] = []
    for _ in range(LISTINGS):
        fresh = _unseen(places, seen, wanted.from_ns)
        for file in fresh:
            rows += _file_rows(file, wanted)
        if not fresh:
            break
    return span_frame(rows)


def decode_requests(payloads: Iterable[bytes], wanted: SpanFilter) -> pd.DataFrame:
    """Serialized ``ExportTraceServiceRequest`` messages as rows; a message that cannot be decoded is skipped."""
    return span_frame(chain.from_iterable(_proto_rows(payload, wanted) for payload in payloads))


def span_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
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
        status_code=pd.to_numeric(frame["status_code"], errors="coerce").astype("Int32"),
    )


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


def _file_rows(path: Path, wanted: SpanFilter) -> Iterator[tuple[Any, ...]]:
    try:
        with path.open("rb") as stream:
            head = stream.read(HEADER.size + 4096)
    except FileNotFoundError:
        return
    if _is_received(path, head):
        for payload in read_requests(path, wanted.from_ns, wanted.received_to_ns):
            yield from _proto_rows(payload, wanted)
        return
    codec = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else None
    with pa.input_stream(str(path), compression=codec) as stream:
        try:
            yield from _stream_rows(stream, path, wanted)
        except (OSError, EOFError) as error:
            if codec is None:
                raise
            log.warning("%s: damaged or cut off: %s", path.name, error)


def _is_received(path: Path, head: bytes) -> bool:
    """Whether the local receiver wrote the file: its first record has a checksum that fits."""
    if len(head) < HEADER.size:
        return False
    length, checksum, _ = HEADER.unpack_from(head)
    if length > LARGEST_MESSAGE:
        return False
    with path.open("rb") as stream:
        stream.seek(HEADER.size)
        payload = stream.read(length)
    return len(payload) == length and zlib.crc32(payload) == checksum


def _stream_rows(stream: Any, path: Path, wanted: SpanFilter) -> Iterator[tuple[Any, ...]]:
    start = stream.read(1)
    rest = _Prefixed(start, stream)
    if start in (b"{", b"\n", b" "):
        for line in rest.lines():
            yield from line_rows(line, path.name, wanted)
        return
    while len(prefix := rest.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(prefix)
        if length > LARGEST_MESSAGE:
            log.warning("%s: is not a file of OTLP spans, or damaged; the rest of it is left out", path.name)
            return
        message = rest.read(length)
        if len(message) < length:
            return  # still being written
        if message.startswith(ZSTD):
            message = pa.CompressedInputStream(pa.BufferReader(message), "zstd").read()
        yield from (line_rows(message, path.name, wanted) if message[:1] == b"{" else _proto_rows(message, wanted))


class _Prefixed:
    """A stream with some bytes put back in front."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self._rest = first
        self._stream = stream

    def read(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken + self._stream.read(size - len(taken)) if len(taken) < size else taken

    def lines(self) -> Iterator[bytes]:
        """Whole lines; the last one also without its end."""
        rest = self._rest
        while block := self._stream.read(2**20):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
        yield rest


def _proto_rows(payload: bytes, wanted: SpanFilter) -> Iterator[tuple[Any, ...]]:
    try:
        request = ExportTraceServiceRequest.FromString(payload)
    except DecodeError:
        log.warning("an export request of %d bytes cannot be decoded and is skipped", len(payload))
        return
    for resource_spans in request.resource_spans:
        service = wanted.service_of(_proto_attributes(resource_spans.resource.attributes))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                start, end = span.start_time_unix_nano, span.end_time_unix_nano
                if wanted.wants(start, end):
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    attributes = _proto_attributes(span.attributes)
                    yield _row(
                        ids,
                        service,
                        span.name,
                        start,
                        end,
                        span.kind,
                        span.status.code,
                        span.status.message,
                        attributes,
                    )


def line_rows(line: bytes, file: str, wanted: SpanFilter) -> Iterator[tuple[Any, ...]]:
    """Spans of one export request as OTLP JSON; text that is not JSON is skipped."""
    if not line.strip():
        return
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        log.warning("%s: a line of %d bytes is not JSON (the collector may be writing it)", file, len(line))
        return
    for resource_spans in document.get("resourceSpans") or ():
        service = wanted.service_of(_json_attributes((resource_spans.get("resource") or {}).get("attributes")))
        for scope_spans in resource_spans.get("scopeSpans") or ():
            for span in scope_spans.get("spans") or ():
                start, end = int(span.get("startTimeUnixNano") or 0), int(span.get("endTimeUnixNano") or 0)
                if wanted.wants(start, end):
                    ids = (span.get("traceId", ""), span.get("spanId", ""), span.get("parentSpanId") or "")
                    status = span.get("status") or {}
                    yield _row(
                        tuple(text.lower() for text in ids),
                        service,
                        span.get("name", ""),
                        start,
                        end,
                        _number(span.get("kind"), "SPAN_KIND_", _KINDS),
                        _number(status.get("code"), "STATUS_CODE_", ("unset", "ok", "error")),
                        status.get("message", ""),
                        _json_attributes(span.get("attributes")),
                    )


def _number(value: Any, prefix: str, names: tuple[str, ...]) -> int:
    """OTLP JSON has numbers for enumerations; older writers spell them out."""
    if isinstance(value, str):
        name = value.removeprefix(prefix).lower()
        return names.index(name) if name in names else 0
    return int(value or 0)


def _row(
    ids: tuple[str, ...],
    service: str,
    name: str,
    start_ns: int,
    end_ns: int,
    kind: int,
    status_code: int,
    status_message: str,
    attributes: dict[str, Any],
) -> tuple[Any, ...]:
    status = next((attributes[key] for key in HTTP_STATUS_ATTRIBUTES if key in attributes), None)
    if status is None and status_code == _STATUS_ERROR:
        status = 500
    if 0 < kind < len(_KINDS):
        attributes["span.kind"] = _KINDS[kind]
    if status_message:
        attributes["status.message"] = status_message
    return (
        ids[0],
        ids[1],
        ids[2] or None,
        service,
        name,
        start_ns,
        max(0, end_ns - start_ns) / 1e9,
        status,
        orjson.dumps(attributes, default=str).decode(),
        np.nan,
    )


def _proto_attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _proto_value(pair.value) for pair in pairs}


def _proto_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_proto_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _proto_attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None


def _json_attributes(pairs: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {pair["key"]: _json_value(pair.get("value") or {}) for pair in pairs or ()}


def _json_value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        decode = _JSON_VALUES.get(kind)
        if decode:
            return decode(content)
    return None


_JSON_VALUES: dict[str, Callable[[Any], Any]] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": int,
    "doubleValue": float,
    "bytesValue": str,
    "arrayValue": lambda array: [_json_value(item) for item in array.get("values") or ()],
    "kvlistValue": lambda pairs: _json_attributes(pairs.get("values")),
}
