from __future__ import annotations

import gzip
import json
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.export.sources.http import SourceError
from tasks.export.sources.otlp import Row, SpanFilter, SpanReader, span_frame
from tasks.export.sources.otlp_files import read_otlp
from tasks.export.trace_servers.files import CollectorFiles
from tasks.left_out import LeftOut
from tasks.system.record_file import RecordFile
from tests.export.emulators import FilesEmulator, Request, Response, failing_first, json_response, serving

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


def _decoded(messages: Iterable[bytes]) -> Iterator[Row]:
    for message in messages:
        yield from SpanReader(ALL, "OTLP").message_rows(message)


DOCUMENTS = [_document(i) for i in range(1, 8)]
EXPECTED = span_frame(_decoded(map(_proto, DOCUMENTS)))
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
    received = RecordFile(tmp_path / "spans.otlp", 2**20)
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


def _changed(**changes: Any) -> bytes:
    """One request of which the span is changed; a key with the value ``...`` is taken away."""
    document = _document(9)
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span.update(changes)
    for key in [key for key, value in span.items() if value is ...]:
        del span[key]
    return json.dumps(document).encode()


def _attribute(value: Any, key: Any = "a") -> bytes:
    pair = {"value": value} if key is ... else {"key": key, "value": value}
    return _changed(attributes=[pair, {"key": "kept", "value": {"intValue": "1"}}])


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"intValue": "1"}
    for _ in range(depth):
        value = {"arrayValue": {"values": [value]}}
    return value


LOST_LINES = {
    "number": b"5",
    "null": b"null",
    "true": b"true",
    "text": b'"resourceSpans"',
    "list": b"[]",
    "not JSON": b"{'resourceSpans': []}",
    "half a character": _changed(name="\u00e9").replace(b"\\u00e9", b"\xc3"),
    "half a surrogate pair": _changed(name="@").replace(b"@", b"\\ud83d"),
    "cut short": LINES[0][:200],
    "null in resourceSpans": b'{"resourceSpans":[null]}',
    "number for resourceSpans": b'{"resourceSpans":5}',
    "text for scopeSpans": b'{"resourceSpans":[{"scopeSpans":"x"}]}',
    "number in spans": b'{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}',
    "resource that is no object": b'{"resourceSpans":[{"resource":[],"scopeSpans":[3]}]}',
    "no start": _changed(startTimeUnixNano=...),
    "start that is no number": _changed(startTimeUnixNano="soon"),
    "start with a fraction": _changed(startTimeUnixNano="12.5"),
    "start of zero": _changed(startTimeUnixNano=0),
    "start before the epoch": _changed(startTimeUnixNano="-5"),
    "start beyond 64 bits": _changed(startTimeUnixNano=str(2**63)),
    "start that is true": _changed(startTimeUnixNano=True),
    "end of zero": _changed(endTimeUnixNano="0"),
    "end beyond 64 bits": _changed(endTimeUnixNano="9" * 30),
    "end that is null": _changed(endTimeUnixNano=None),
    "trace id null": _changed(traceId=None),
    "trace id a number": _changed(traceId=12),
    "trace id in base 64": _changed(traceId="AAAAAAAAAAAAAAAAAAAACQ=="),
    "trace id too short": _changed(traceId="0" * 16),
    "span id missing": _changed(spanId=...),
    "span id not hexadecimal": _changed(spanId="z" * 16),
    "span id too long": _changed(spanId="0" * 17),
}
LOST_PARTS = {
    "attribute without a key": _attribute({"intValue": "1"}, ...),
    "key that is a number": _attribute({"intValue": "1"}, 5),
    "integer with a fraction": _attribute({"intValue": "12.5"}),
    "integer beyond 64 bits": _attribute({"intValue": "9" * 23}),
    "integer that is null": _attribute({"intValue": None}),
    "number in letters": _attribute({"doubleValue": "much"}),
    "boolean in letters": _attribute({"boolValue": "perhaps"}),
    "boolean that is a list": _attribute({"boolValue": []}),
    "list whose values are a number": _attribute({"arrayValue": {"values": 5}}),
    "text that is a list": _attribute({"stringValue": []}),
    "value that is a text": _attribute("x"),
    "value of an unknown kind": _attribute({"colourValue": "red"}),
    "list that is a list": _attribute({"arrayValue": [1]}),
    "list with an odd value": _attribute({"arrayValue": {"values": [{"intValue": "x"}]}}),
    "nested too deep": _attribute(_nested(100)),
    "attributes that are no list": _changed(attributes={"a": 1}),
    "attribute that is null": _changed(attributes=[None]),
    "status with a fraction": _attribute({"doubleValue": 200.5}, "http.status_code"),
    "status beyond 32 bits": _attribute({"intValue": "99999999999"}, "http.status_code"),
    "status in letters": _attribute({"stringValue": "OK"}, "http.response.status_code"),
    "unknown kind": _changed(kind=17),
    "unknown kind in letters": _changed(kind="SPAN_KIND_ROBOT"),
    "kind that is a list": _changed(kind=[]),
    "unknown status": _changed(status={"code": -1}),
    "parent that is not hexadecimal": _changed(parentSpanId="parent"),
    "parent that is a number": _changed(parentSpanId=5),
}
SPANS = len(DOCUMENTS)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("odd", [*LOST_LINES, *LOST_PARTS])
def test_one_odd_line_is_counted_and_the_others_are_read(tmp_path: Path, odd: str, place: str) -> None:
    line = {**LOST_LINES, **LOST_PARTS}[odd]
    at = {"first": 0, "middle": 3, "last": SPANS}[place]
    (tmp_path / "spans.json").write_bytes(b"\n".join([*LINES[:at], line, *LINES[at:]]) + b"\n")
    left_out = LeftOut()
    found = read_otlp([tmp_path], ALL, left_out)
    expected = SPANS if odd in LOST_LINES else SPANS + 1
    assert len(found) == expected
    assert len(left_out) == 1
    assert left_out.problems[0].startswith("spans.json: left out 1 x ")
    pd.testing.assert_frame_equal(found[found["span_id"].ne(f"{9:016x}")].reset_index(drop=True), EXPECTED)


@pytest.mark.parametrize("odd", LOST_PARTS)
def test_an_odd_attribute_costs_no_other(tmp_path: Path, odd: str) -> None:
    (tmp_path / "spans.json").write_bytes(LOST_PARTS[odd] + b"\n")
    (row,) = read_otlp([tmp_path], ALL).to_dict("records")
    assert row["operation"] == "llm_request"
    attributes = json.loads(row["attributes"])
    assert attributes.get("kept", 1) == 1
    assert "a" not in attributes or odd.startswith("status")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"intValue": 7}, 7),
        ({"intValue": "-9223372036854775808"}, -(2**63)),
        ({"intValue": 7.0}, 7),
        ({"doubleValue": 3}, 3.0),
        ({"doubleValue": "NaN"}, None),
        ({"doubleValue": "-Infinity"}, None),
        ({"boolValue": "true"}, True),
        ({"stringValue": 5}, "5"),
        ({}, None),
        (None, None),
        ({"arrayValue": {}}, []),
        ({"arrayValue": {"values": None}}, []),
        (_nested(20), None),
    ],
)
def test_values_in_other_spellings(tmp_path: Path, value: Any, expected: Any) -> None:
    (tmp_path / "spans.json").write_bytes(_attribute(value) + b"\n")
    left_out = LeftOut()
    (row,) = read_otlp([tmp_path], ALL, left_out).to_dict("records")
    found = json.loads(row["attributes"])
    assert not left_out.problems
    assert found["a"] == expected if value != _nested(20) else "[[[1]]]" in str(found["a"])


@pytest.mark.parametrize(
    "changes",
    [
        {"start_time_unix_nano": 0},
        {"start_time_unix_nano": 2**63},
        {"end_time_unix_nano": 2**64 - 1},
        {"trace_id": b""},
        {"trace_id": b"x" * 15},
        {"span_id": b"y" * 9},
    ],
)
def test_odd_spans_in_protobuf(tmp_path: Path, changes: dict[str, Any]) -> None:
    request = ExportTraceServiceRequest.FromString(_proto(DOCUMENTS[0]))
    request.resource_spans[0].scope_spans[0].spans[0].span_id = b"n" * 8
    for key, value in changes.items():
        setattr(request.resource_spans[0].scope_spans[0].spans[0], key, value)
    messages = [request.SerializeToString(), *(_proto(d) for d in DOCUMENTS)]
    (tmp_path / "messages").write_bytes(_prefixed(messages))
    received = RecordFile(tmp_path / "received.otlp", 2**20)
    for message in messages:
        received.append(message)
    received.close()
    for name in ("messages", "received.otlp"):
        left_out = LeftOut()
        pd.testing.assert_frame_equal(read_otlp([tmp_path / name], ALL, left_out), EXPECTED)
        assert len(left_out) == 1


@pytest.mark.parametrize(
    "message", [b"\n\xff\xff\xff", b"\x28\xb5\x2f\xfdnonsense", b"{", b"", _zstd(b"5"), b"\n\x05\n\x03\n\x01\xff"]
)
@pytest.mark.parametrize("at", [0, 3, SPANS])
def test_an_odd_message_is_counted_and_the_others_are_read(tmp_path: Path, message: bytes, at: int) -> None:
    messages = [_proto(d) for d in DOCUMENTS]
    messages.insert(at, message)
    (tmp_path / "messages").write_bytes(_prefixed(messages))
    left_out = LeftOut()
    pd.testing.assert_frame_equal(read_otlp([tmp_path], ALL, left_out), EXPECTED)
    assert len(left_out) == (1 if message else 0)


@pytest.mark.parametrize("damaged", [0, 2, SPANS - 1])
def test_a_damaged_record_of_the_receiver(tmp_path: Path, damaged: int) -> None:
    received = RecordFile(tmp_path / "spans.otlp", 2**20)
    for document in DOCUMENTS:
        received.append(_proto(document))
    received.close()
    content = (tmp_path / "spans.otlp").read_bytes()
    name = _proto(DOCUMENTS[damaged])
    (tmp_path / "spans.otlp").write_bytes(content.replace(name, name[:-1] + b"?"))
    left_out = LeftOut()
    found = read_otlp([tmp_path], ALL, left_out)
    assert found["span_id"].tolist() == EXPECTED["span_id"].drop(damaged).tolist()
    assert left_out.problems == ["spans.otlp: left out 1 x a damaged record of the receiver"]


def test_a_cut_at_the_end_is_noted_and_no_problem(tmp_path: Path) -> None:
    (tmp_path / "spans.json").write_bytes(b"\n".join([*LINES, LINES[0][:99]]))
    left_out = LeftOut()
    assert len(read_otlp([tmp_path], ALL, left_out)) == SPANS
    assert not left_out.problems
    assert left_out.notes == ["spans.json ends within a line or message: it is being written, or was cut off"]


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
@pytest.mark.parametrize("http", [False, True])
def test_a_compressed_file_that_is_damaged_is_read_up_to_there(
    tmp_path: Path, compress: Callable[[bytes], bytes], http: bool
) -> None:
    good, rest = compress(b"\n".join(LINES) + b"\n"), compress(os.urandom(30_000))
    content = good + rest[: len(rest) // 2]
    left_out = LeftOut()
    if http:
        with serving(FilesEmulator({"x": content})) as url, CollectorFiles(url) as files:
            found = span_frame(files.rows(ALL, left_out))
    else:
        (tmp_path / "x").write_bytes(content)
        found = read_otlp([tmp_path], ALL, left_out)
    pd.testing.assert_frame_equal(found, EXPECTED)
    assert any("damaged or cut off" in line for line in left_out.problems)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece_bytes", [100, 4097, 2**20])
@pytest.mark.parametrize("ranges", [True, False])
def test_every_form_over_http(form: str, piece_bytes: int, ranges: bool) -> None:
    content = FORMS[form]()
    emulator = FilesEmulator({"spans": content})

    def whole(request: Request) -> Response:
        return emulator(request) if request.path == "/" else Response(content)

    with serving(emulator if ranges else whole) as url, CollectorFiles(url, piece_bytes=piece_bytes) as files:
        pd.testing.assert_frame_equal(span_frame(files.rows(ALL)), EXPECTED)


def test_a_server_that_gives_shorter_ranges_than_asked() -> None:
    emulator = FilesEmulator({"spans": b"\n".join(LINES) + b"\n"})

    def short(request: Request) -> Response:
        answer = emulator(request)
        return Response(answer.body[:1000], answer.status) if answer.status == 206 else answer

    with serving(short) as url, CollectorFiles(url) as files:
        pd.testing.assert_frame_equal(span_frame(files.rows(ALL)), EXPECTED)


def test_a_file_with_a_content_encoding_is_read_as_it_is_stored() -> None:
    """Some servers name the compression of a file's content as that of the answer, also of a part of it."""
    emulator = FilesEmulator({"spans.json.gz": gzip.compress(b"\n".join(LINES))})

    def encoded(request: Request) -> Response:
        answer = emulator(request)
        return Response(answer.body, answer.status, {"Content-Encoding": "gzip"} if answer.status == 206 else {})

    with serving(encoded) as url, CollectorFiles(url, piece_bytes=200, retries=0) as files:
        pd.testing.assert_frame_equal(span_frame(files.rows(ALL)), EXPECTED)


@pytest.mark.parametrize("mtime", [None, "", "yesterday", 5, "Sun, 06 Nov 2044 08:49:37 -0000"])
def test_a_list_of_files_with_odd_entries(mtime: Any) -> None:
    emulator = FilesEmulator({"spans": LINES[0] + b"\n"})
    entries = [
        5,
        None,
        {"type": "file"},
        {"name": 7, "type": "file"},
        {"name": "spans", "type": "file", "mtime": mtime},
    ]

    def listed(request: Request) -> Response:
        return json_response(entries) if request.path == "/" else emulator(request)

    left_out = LeftOut()
    with serving(listed) as url, CollectorFiles(url) as files:
        assert len(list(files.rows(SpanFilter(NAMES, from_ns=T0 * NS), left_out))) == 1
    assert len(left_out) == 4 * 2


def test_a_failing_file_server_is_one_error_also_within_a_compressed_file() -> None:
    content = gzip.compress(os.urandom(50_000))
    emulator = FilesEmulator({"x": content})

    def failing(request: Request) -> Response:
        return Response(b"no", 500) if "bytes=20000" in request.headers.get("Range", "") else emulator(request)

    with (
        serving(failing) as url,
        CollectorFiles(url, piece_bytes=20_000, retries=1, backoff_s=0.01) as files,
        pytest.raises(SourceError, match="no answer after retries: HTTP 500"),
    ):
        list(files.rows(ALL))
