"""Decodes OTLP export requests, JSON or protobuf, to rows of spans.

Malformed input (a line that is not JSON, a span without a time, an identifier that is not hexadecimal) is counted and
skipped; a malformed attribute is skipped without its span.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.export.values import LARGEST_INT32, LARGEST_INT64, real_number, whole_number
from tasks.left_out import LeftOut

log = logging.getLogger(__name__)

SERVICE_ATTRIBUTES = ("k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip", "service.name", "service.instance.id", "host.name")
"""Resource attributes that may name the service, in order; the first that names a service of the stack counts."""
NAMESPACE_ATTRIBUTE = "k8s.namespace.name"
HTTP_STATUS_ATTRIBUTES = ("http.response.status_code", "http.status_code")
COLUMNS = ("trace_id", "span_id", "parent_span_id", "service", "operation", "start", "duration", "status_code")

ZSTD = b"\x28\xb5\x2f\xfd"
LARGEST_MESSAGE = 256 * 2**20
DEEPEST_VALUE = 32
"""Maximum nesting of lists and maps in an attribute; deeper values are left out."""

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_CODES = ("unset", "ok", "error")
_STATUS_ERROR = 2
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_ODD = object()
"""Marks a malformed attribute value."""

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
        named = [str(resource[key]) for key in SERVICE_ATTRIBUTES if resource.get(key) is not None]
        return next((self.names[name] for name in named if name in self.names), named[0] if named else "unknown")

    def wants(self, start_ns: int, end_ns: int) -> bool:
        return max(start_ns, end_ns) >= self.from_ns and start_ns <= self.to_ns


def span_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return rows as a table of ``COLUMNS``, ``attributes`` and ``upstream_s``."""
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
    """Return numbers, or text that is one, as Int32; null for anything else."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    whole = numbers.where(numbers.mod(1).eq(0) & numbers.abs().le(LARGEST_INT32))
    return whole.astype("Int32")


@dataclass
class SpanReader:
    """Decodes the export requests of one file into rows of ``span_frame``.

    Args:
        wanted: the spans to take.
        place: the file's name in ``left_out``, which counts unusable parts.
    """

    wanted: SpanFilter
    place: str
    left_out: LeftOut = field(default_factory=LeftOut)

    def odd(self, what: str) -> None:
        self.left_out.count(self.place, what)

    def damaged_record(self) -> None:
        self.odd("a damaged record of the receiver")

    def note_cut(self) -> None:
        """Count a file that ends within a line or message."""
        self.left_out.note(f"{self.place} ends within a line or message: it is being written, or was cut off")

    def message_rows(self, message: bytes) -> Iterator[Row]:
        """Yield the spans of one export request: JSON or protobuf, perhaps zstd."""
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
        """Yield the spans of one export request as OTLP JSON."""
        line = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not line:
            return
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not ended:
                self.note_cut()
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
                    row = self.row(
                        (span.get("traceId"), span.get("spanId"), span.get("parentSpanId")),
                        service,
                        span.get("name"),
                        (start, end),  # type: ignore[arg-type]  # _takes checked that both are numbers
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
                    row = self.row(
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
        """Return whether a span has times and overlaps the requested window."""
        if start_ns is None or end_ns is None or not 0 < start_ns <= LARGEST_INT64 or not 0 < end_ns <= LARGEST_INT64:
            self.odd("a span whose start or end is no time")
            return False
        return self.wanted.wants(start_ns, end_ns)

    def row(
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
        """Return a span as a row, None if its ids are none.

        Args:
            ids: of trace, span and parent, in hexadecimal.
            times_ns: start and end.
            kind, status_code: numbers of OTLP.
        """
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
        """Return the number of an enumeration's value; older writers of OTLP JSON spell it out."""
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
        """Yield the objects in the list ``parent[key]``; count other elements as malformed."""
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
