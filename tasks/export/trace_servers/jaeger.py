"""Jaeger, and servers that offer its query API (VictoriaTraces): whole traces by service and time, as Jaeger's JSON.

API: that of Jaeger's own user interface, ``/api/services`` and ``/api/traces``; the fields follow Jaeger's model (times
in microseconds, tags with types, processes beside the spans).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from tasks.export.sources.http import SourceError, one_line
from tasks.export.sources.otlp import Row, SpanFilter, SpanReader
from tasks.export.sources.trace_server import Part, SearchServer, trace_server
from tasks.export.values import LARGEST_INT64, whole_number
from tasks.left_out import LeftOut

_KINDS = ("internal", "server", "client", "producer", "consumer")
OWN_TAGS = ("span.kind", "otel.status_code", "otel.status_description", "internal.span.format", "w3c.tracestate")
"""Tags that say what OTLP has fields for."""
HOST_TAGS = {"hostname": "host.name", "pod": "k8s.pod.name", "namespace": "k8s.namespace.name"}
"""Tags of a process -> attribute of a resource, where older clients say it in their own words."""


@trace_server("jaeger")
class Jaeger(SearchServer):
    title = "Jaeger"

    def services(self, wanted: SpanFilter) -> list[str]:
        return sorted({name for name in self._data("/api/services", {}) if isinstance(name, str)})

    def part_rows(
        self,
        part: Part,
        services: list[str],
        wanted: SpanFilter,
        seen: set[str],
        deadline: float,
        left_out: LeftOut,
    ) -> Generator[Row, None, bool]:
        full = False
        reader = SpanReader(wanted, self.title, left_out)
        for service in services:
            if time.monotonic() > deadline:
                left_out.sampled = True
                left_out.count(self.title, "a service for which no time was left")
                continue
            fields = {
                "service": service,
                "start": str(part.from_ns // 1000),
                "end": str(part.to_ns // 1000),
                "limit": str(part.limit),
            }
            traces = self._data("/api/traces", fields)
            full |= len(traces) >= part.limit
            for trace in traces:
                identity = trace.get("traceID") if isinstance(trace, dict) else None
                if not isinstance(identity, str):
                    left_out.count(self.title, "a trace without an id")
                elif identity not in seen:
                    seen.add(identity)
                    yield from _trace_rows(trace, reader)
        return not full

    def _data(self, path: str, fields: dict[str, str]) -> list[Any]:
        document = self._document(self._http.request(path, fields), path)
        errors = document.get("errors")
        if errors and not document.get("data"):
            raise SourceError(f"{self._http.url}: {self.title}: {one_line(errors)}")
        if "data" not in document or not isinstance(document["data"] or [], list):
            raise SourceError(f"{self._http.url}: a body that is not {self.title}'s: {one_line(str(document))[:120]!r}")
        return document["data"] or []


def _trace_rows(trace: Mapping[str, Any], reader: SpanReader) -> Iterator[Row]:
    processes = trace.get("processes")
    resources = {
        name: _resource(process)
        for name, process in (processes.items() if isinstance(processes, dict) else ())
        if isinstance(process, dict)
    }
    spans = trace.get("spans")
    for span in spans if isinstance(spans, list) else ():
        if not isinstance(span, dict):
            reader.odd("a span that is no object")
            continue
        start_us, length_us = whole_number(span.get("startTime")), whole_number(span.get("duration"))
        if start_us is None or length_us is None or start_us <= 0 or length_us < 0:
            reader.odd("a span whose start or end is no time")
            continue
        start_ns, end_ns = start_us * 1000, (start_us + length_us) * 1000
        if end_ns > LARGEST_INT64:
            reader.odd("a span whose start or end is no time")
            continue
        if not reader.wanted.wants(start_ns, end_ns):
            continue
        tags = _tags(span.get("tags"))
        kind = tags.get("span.kind")
        failed = tags.get("otel.status_code") == "ERROR" or tags.get("error") in (True, "true")
        row = reader.row(
            (_padded(span.get("traceID"), 32), _padded(span.get("spanID"), 16), _padded(_parent(span), 16)),
            reader.wanted.service_of(resources.get(str(span.get("processID")), {})),
            span.get("operationName"),
            (start_ns, end_ns),
            1 + _KINDS.index(kind) if kind in _KINDS else 0,
            2 if failed else 0,
            tags.get("otel.status_description"),
            {name: value for name, value in tags.items() if name not in OWN_TAGS},
        )
        if row is not None:
            yield row


def _resource(process: Mapping[str, Any]) -> dict[str, Any]:
    tags = _tags(process.get("tags"))
    told = {attribute: tags[tag] for tag, attribute in HOST_TAGS.items() if tag in tags}
    return {**told, **tags, "service.name": process.get("serviceName")}


def _tags(pairs: Any) -> dict[str, Any]:
    if not isinstance(pairs, list):
        return {}
    return {
        pair["key"]: pair.get("value") for pair in pairs if isinstance(pair, dict) and isinstance(pair.get("key"), str)
    }


def _parent(span: Mapping[str, Any]) -> Any:
    """Return the id of the parent: of the span of the same trace that it is a child of, or else follows."""
    references = span.get("references")
    own = [
        reference
        for reference in (references if isinstance(references, list) else ())
        if isinstance(reference, dict) and reference.get("traceID") == span.get("traceID")
    ]
    child = next((each for each in own if each.get("refType") == "CHILD_OF"), own[0] if own else None)
    return child.get("spanID") if child else span.get("parentSpanID")


def _padded(identity: Any, length: int) -> Any:
    """Return an identifier with the zeros in front that Jaeger leaves out."""
    return identity.zfill(length) if isinstance(identity, str) and identity else identity
