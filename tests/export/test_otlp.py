from __future__ import annotations

import gzip
import json
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.deploy.local.otlp_receiver import SpanFile
from tasks.export.collector import CollectorFiles
from tasks.export.http import SourceError
from tasks.export.otlp import SpanFilter, decode_requests, read_otlp, span_frame
from tests.export.emulators import FilesEmulator, Response, failing_first, json_response, serving

T0 = 1_760_000_000
NS = 1_000_000_000
NAMES = {"ray-head": "ray-head", "worker-a": "ray-replicas-0"}
ALL = SpanFilter(NAMES)


def _document(number: int, pod: str = "worker-a", **resource: str) -> dict[str, Any]:
    """One export request as the collector writes it, JSON: ids in hexadecimal, 64-bit numbers as text."""
    start = (T0 + number) * NS + 7
    pairs = {"k8s.pod.name": pod, **resource}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": k, "value": {"stringValue": v}} for k, v in pairs.items()]},
                "scopeSpans": [
                    {
                        "scope": {"name": "vllm"},
                        "spans": [
                            {
                                "traceId": f"{number:032x}",
                                "spanId": f"{number:016x}",
                                "parentSpanId": "" if number % 2 else f"{number + 1:016x}",
                                "name": "llm_request",
                                "kind": 2,
                                "startTimeUnixNano": str(start),
                                "endTimeUnixNano": str(start + NS // 2),
                                "attributes": [
                                    {"key": "gen_ai.latency.e2e", "value": {"doubleValue": 0.5}},
                                    {"key": "gen_ai.usage.completion_tokens", "value": {"intValue": "16"}},
                                    {"key": "stream", "value": {"boolValue": True}},
                                    {"key": "stop", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
                                    {
                                        "key": "tags",
                                        "value": {
                                            "kvlistValue": {"values": [{"key": "x", "value": {"intValue": "1"}}]}
                                        },
                                    },
                                ],
                                "status": {"code": 2, "message": "aborted"} if number == 3 else {},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def _proto(document: dict[str, Any]) -> bytes:
    """The same request as protobuf."""
    request = ExportTraceServiceRequest()
    for group in document["resourceSpans"]:
        resource_spans = request.resource_spans.add()
        for pair in group["resource"]["attributes"]:
            resource_spans.resource.attributes.add(key=pair["key"]).value.string_value = pair["value"]["stringValue"]
        for span in group["scopeSpans"][0]["spans"]:
            made = resource_spans.scope_spans.add().spans.add(
                trace_id=bytes.fromhex(span["traceId"]),
                span_id=bytes.fromhex(span["spanId"]),
                parent_span_id=bytes.fromhex(span["parentSpanId"]),
                name=span["name"],
                kind=span["kind"],
                start_time_unix_nano=int(span["startTimeUnixNano"]),
                end_time_unix_nano=int(span["endTimeUnixNano"]),
            )
            made.attributes.add(key="gen_ai.latency.e2e").value.double_value = 0.5
            made.attributes.add(key="gen_ai.usage.completion_tokens").value.int_value = 16
            made.attributes.add(key="stream").value.bool_value = True
            made.attributes.add(key="stop").value.array_value.values.add().string_value = "a"
            made.attributes.add(key="tags").value.kvlist_value.values.add(key="x").value.int_value = 1
            if span["status"]:
                made.status.code, made.status.message = 2, "aborted"
    return request.SerializeToString()


DOCUMENTS = [_document(i) for i in range(1, 8)]
EXPECTED = decode_requests(map(_proto, DOCUMENTS), ALL)
LINES = [json.dumps(document, separators=(",", ":")).encode() for document in DOCUMENTS]


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def _prefixed(messages: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


FORMS: dict[str, Callable[[], bytes]] = {
    "json lines": lambda: b"\n".join(LINES) + b"\n",
    "json lines, the last being written": lambda: b"\n".join([*LINES, LINES[0][:40]]),
    "json lines, gzip": lambda: gzip.compress(b"\n".join(LINES)),
    "json lines, zstd": lambda: _zstd(b"\n".join(LINES) + b"\n"),
    "messages": lambda: _prefixed([_proto(d) for d in DOCUMENTS]),
    "messages, zstd": lambda: _prefixed([_zstd(_proto(d)) for d in DOCUMENTS]),
    "messages, json, zstd": lambda: _prefixed([_zstd(line) for line in LINES]),
    "messages, the last being written": lambda: _prefixed([_proto(d) for d in [*DOCUMENTS, DOCUMENTS[0]]])[:-5],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_file_exporter(tmp_path: Path, form: str) -> None:
    (tmp_path / "spans.jsonl").write_bytes(FORMS[form]())
    pd.testing.assert_frame_equal(read_otlp([tmp_path], ALL), EXPECTED)


def test_rows_say_what_the_spans_say() -> None:
    row = EXPECTED.iloc[2]
    assert (row["trace_id"], row["span_id"]) == (f"{3:032x}", f"{3:016x}")
    assert row[["service", "operation", "status_code"]].tolist() == ["ray-replicas-0", "llm_request", 500]
    assert row["duration"] == 0.5
    assert row["start"].value == (T0 + 3) * NS + 7
    assert json.loads(row["attributes"]) == {
        "gen_ai.latency.e2e": 0.5,
        "gen_ai.usage.completion_tokens": 16,
        "stream": True,
        "stop": ["a"],
        "tags": {"x": 1},
        "span.kind": "server",
        "status.message": "aborted",
    }
    assert EXPECTED["parent_span_id"].isna().tolist() == [True, False] * 3 + [True]


def test_rotated_files_the_receivers_file_and_strangers_in_one_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "spans.jsonl").write_bytes(b"\n".join(LINES[:2]) + b"\n")
    (tmp_path / "spans-2026-11-22T10-00-00.000.jsonl.gz").write_bytes(gzip.compress(b"\n".join(LINES[2:4])))
    received = SpanFile(tmp_path / "spans.otlp", 2**20)
    for document in DOCUMENTS[4:]:
        received.append(_proto(document))
    received.close()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "noise.bin").write_bytes(b"\xff\xff\xff\xff" * 100)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"resourceMetrics":[]}\nnot json\n')
    os.link(tmp_path / "group" / "spans.jsonl", tmp_path / "again.jsonl")
    with caplog.at_level(logging.WARNING):
        found = read_otlp([tmp_path, tmp_path / "nowhere"], ALL)
    assert sorted(found["span_id"]) == sorted(EXPECTED["span_id"])
    assert "noise.bin: is not a file of OTLP spans" in caplog.text
    assert "metrics.jsonl: a line of 8 bytes is not JSON" in caplog.text


def test_only_the_window_and_only_files_of_its_time(tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    some = SpanFilter(NAMES, from_ns=(T0 + 3) * NS, to_ns=(T0 + 4) * NS + 100)
    assert read_otlp([tmp_path], some)["span_id"].tolist() == [f"{i:016x}" for i in (3, 4)]
    os.utime(tmp_path / "spans.jsonl", (T0 - 100, T0 - 100))
    assert read_otlp([tmp_path], some).empty


def test_services_by_pod_and_not_from_another_namespace() -> None:
    wanted = SpanFilter(NAMES, namespace="rcarena")
    ours = {"service.name": "ray-head", "k8s.namespace.name": "rcarena"}
    assert wanted.service_of(ours) == "ray-head"
    assert wanted.service_of({"k8s.pod.name": "worker-a", "service.name": "other"}) == "ray-replicas-0"
    assert wanted.service_of({"service.name": "ray-head"}) == "ray-head"
    assert wanted.service_of({**ours, "k8s.namespace.name": "blue"}) == "blue/ray-head"


@pytest.mark.parametrize("rotate_at", [None, 2, 3])
def test_the_collectors_files_over_http(rotate_at: int | None) -> None:
    """The current file is renamed before it is read, or while it is."""
    emulator = FilesEmulator(
        {
            "spans-1.jsonl": b"\n".join(LINES[:3]) + b"\n",
            "spans-0.jsonl": b'{"not": "read"',
            "spans.jsonl": b"\n".join([*LINES[3:], LINES[0][:30]]),
        },
        {"spans-0.jsonl": T0 - 1000},
        rotate_at=rotate_at,
    )
    wanted = SpanFilter(NAMES, from_ns=T0 * NS)
    with serving(emulator) as url, CollectorFiles(url, piece_bytes=5000) as files:
        found = span_frame(files.rows(wanted)).drop_duplicates("span_id").sort_values("span_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, EXPECTED)


def test_failures_of_the_file_server() -> None:
    emulator = FilesEmulator({"spans.jsonl": b"\n".join(LINES) + b"\n"})
    cut = Response(b"x" * 100, 206, cut_after=10)
    with (
        serving(failing_first(emulator, [Response(b"", 503), cut])) as url,
        CollectorFiles(url, backoff_s=0.01) as files,
    ):
        assert len(list(files.rows(ALL))) == len(LINES)
    for answer in (Response(b"<html>index</html>"), json_response({}), Response(b"no", 404)):
        with (
            serving(lambda _, answer=answer: answer) as url,  # type: ignore[misc]
            CollectorFiles(url, backoff_s=0.01) as files,
            pytest.raises(SourceError, match="instead of a list of files"),
        ):
            list(files.rows(ALL))
