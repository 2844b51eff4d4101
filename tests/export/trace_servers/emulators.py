"""Stand-ins for Grafana Tempo and Jaeger: they hold the same spans and answer as their documentation says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.export.emulators import Request, Response, json_response

NS = 1_000_000_000


@dataclass(frozen=True)
class Span:
    """``start_ms``, ``length_ms``: since the epoch; ``trace``, ``span``, ``parent``: numbers of ids."""

    trace: int
    span: int
    service: str
    start_ms: int
    length_ms: int = 100
    parent: int = 0
    resource: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    failed: bool = False


@dataclass
class TempoEmulator:
    """``gone``: numbers of traces that a search finds and that are not there any more; ``too_large``: refused ones;
    ``broken``: those whose reading fails at every try."""

    spans: Sequence[Span]
    gone: frozenset[int] = frozenset()
    too_large: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    queries: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        start, end = int(request.one("start")), int(request.one("end"))
        there = [
            span for span in self.spans if start * 1000 <= span.start_ms + span.length_ms and span.start_ms < end * 1000
        ]
        if request.path == "/api/v2/search/tag/resource.service.name/values":
            names = sorted({span.service for span in there})
            return json_response({"tagValues": [{"type": "string", "value": name} for name in names], "metrics": {}})
        if request.path == "/api/search":
            self.queries.append(request)
            found = re.fullmatch(r'\{ resource\.service\.name =~ "(.*)" \}', request.one("q"))
            assert found
            pattern = json.loads(f'"{found[1]}"')
            traces = dict.fromkeys(span.trace for span in there if re.fullmatch(pattern, span.service))
            listed = [
                {"traceID": f"{trace:x}", "rootServiceName": "a", "startTimeUnixNano": "1", "durationMs": 1}
                for trace in [*traces][: int(request.one("limit"))]
            ]
            return json_response({"traces": listed, "metrics": {"inspectedTraces": len(traces)}})
        identity = re.fullmatch(r"/api/traces/([0-9a-f]+)", request.path)
        if identity is None:
            return Response(b"404 page not found", 404)
        assert request.headers["Accept"] == "application/protobuf"
        number = int(identity[1], 16)
        if number in self.too_large:
            return Response(b"trace exceeds max size (max bytes: 5000000)", 422)
        if number in self.broken:
            return Response(b"boom", 500)
        if number in self.gone:
            return Response(b"", 404)
        return Response(_proto([span for span in self.spans if span.trace == number]))


def _proto(spans: Sequence[Span]) -> bytes:
    data = TracesData()
    for span in spans:
        group = data.resource_spans.add()
        for name, value in {"service.name": span.service, **span.resource}.items():
            group.resource.attributes.add(key=name).value.string_value = value
        made = group.scope_spans.add().spans.add(
            trace_id=span.trace.to_bytes(16, "big"),
            span_id=span.span.to_bytes(8, "big"),
            parent_span_id=span.parent.to_bytes(8, "big") if span.parent else b"",
            name="llm_request",
            kind=2,
            start_time_unix_nano=span.start_ms * 1_000_000,
            end_time_unix_nano=(span.start_ms + span.length_ms) * 1_000_000,
        )
        for name, value in span.attributes.items():
            holder = made.attributes.add(key=name).value
            setattr(holder, {str: "string_value", int: "int_value", float: "double_value"}[type(value)], value)
        if span.failed:
            made.status.code, made.status.message = 2, "aborted"
    return data.SerializeToString()


@dataclass
class JaegerEmulator:
    """Identifiers have no zeros in front, as older versions write them."""

    spans: Sequence[Span]
    queries: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        if request.path == "/api/services":
            return self._answer(sorted({span.service for span in self.spans}))
        if request.path != "/api/traces":
            return Response(b"404 page not found", 404)
        self.queries.append(request)
        start, end, limit = (int(request.one(name)) for name in ("start", "end", "limit"))
        traces = dict.fromkeys(
            span.trace
            for span in self.spans
            if span.service == request.one("service") and start <= span.start_ms * 1000 <= end
        )
        return self._answer([self._trace(trace) for trace in [*traces][:limit]])

    def _answer(self, data: list[Any]) -> Response:
        return json_response({"data": data, "total": 0, "limit": 0, "offset": 0, "errors": None})

    def _trace(self, trace: int) -> dict[str, Any]:
        spans = [span for span in self.spans if span.trace == trace]
        return {
            "traceID": f"{trace:x}",
            "spans": [self._span(span, number) for number, span in enumerate(spans)],
            "processes": {
                f"p{number}": {"serviceName": span.service, "tags": _tags(span.resource)}
                for number, span in enumerate(spans)
            },
            "warnings": None,
        }

    def _span(self, span: Span, number: int) -> dict[str, Any]:
        own = {"traceID": f"{span.trace:x}", "spanID": f"{span.parent:x}"}
        tags: dict[str, Any] = {"span.kind": "server", **span.attributes}
        if span.failed:
            tags |= {"error": True, "otel.status_code": "ERROR", "otel.status_description": "aborted"}
        return {
            "traceID": f"{span.trace:x}",
            "spanID": f"{span.span:x}",
            "operationName": "llm_request",
            "references": [{"refType": "CHILD_OF", **own}] if span.parent else [],
            "startTime": span.start_ms * 1000,
            "duration": span.length_ms * 1000,
            "tags": _tags(tags),
            "logs": [],
            "processID": f"p{number}",
        }


def _tags(values: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "string", int: "int64", float: "float64", bool: "bool"}
    return [{"key": name, "type": kinds[type(value)], "value": value} for name, value in values.items()]
