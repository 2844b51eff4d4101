from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tasks.system.record_file import HEADER, RecordFile, read_records

TRACE_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS_EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def _request(name: str) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name=name, trace_id=b"t" * 16, span_id=b"s" * 8)
    return request


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver:
    """The receiver as its own process."""

    def __init__(self, out: Path, *extra: str) -> None:
        self.port = _free_port()
        command = [sys.executable, "-m", "tasks.deploy.local.otlp_receiver"]
        self.process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{self.port}", "--out", str(out), *extra])
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        grpc.channel_ready_future(self.channel).result(timeout=30)

    def export(self, name: str) -> ExportTraceServiceResponse:
        call = self.channel.unary_unary(
            TRACE_EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        return call(_request(name), timeout=10)

    def end(self, number: int) -> int:
        self.channel.close()
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


def _names(out: Path) -> list[str]:
    requests = [ExportTraceServiceRequest.FromString(payload) for payload in read_records(out)]
    return [r.resource_spans[0].scope_spans[0].spans[0].name for r in requests]


def test_spans_survive_kill_and_restart_and_sigterm_is_clean(tmp_path: Path) -> None:
    out = tmp_path / "spans.otlp"
    first = Receiver(out)
    first.export("one")
    first.export("two")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with out.open("ab") as stream:
        stream.write(HEADER.pack(1000, 0, 1) + b"torn")

    second = Receiver(out)
    second.export("three")
    assert second.end(signal.SIGTERM) == 0
    assert _names(out) == ["one", "two", "three"]


def test_metrics_are_accepted_and_dropped(tmp_path: Path) -> None:
    out = tmp_path / "spans.otlp"
    receiver = Receiver(out)
    call = receiver.channel.unary_unary(
        METRICS_EXPORT,
        request_serializer=ExportMetricsServiceRequest.SerializeToString,
        response_deserializer=ExportMetricsServiceResponse.FromString,
    )
    assert call(ExportMetricsServiceRequest(), timeout=10) == ExportMetricsServiceResponse()
    assert receiver.end(signal.SIGTERM) == 0
    assert out.stat().st_size == 0


def test_full_file_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "spans.otlp"
    receiver = Receiver(out, "--max-mb", "0")
    with pytest.raises(grpc.RpcError) as refusal:
        receiver.export("one")
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert receiver.end(signal.SIGTERM) == 0
    assert _names(out) == []


def test_taken_port_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "tasks.deploy.local.otlp_receiver", "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "f")], capture_output=True, text=True, timeout=60, env=dict(os.environ)
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: cannot be bound" in done.stderr
    assert "Traceback" not in done.stderr


@settings(deadline=None)
@given(payloads=st.lists(st.binary(min_size=1, max_size=40), max_size=6), cut=st.integers(0, 400))
def test_reader_returns_the_whole_records_before_any_cut(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "spans.otlp"
    spans = RecordFile(path, 2**20)
    ends = [0]
    for payload in payloads:
        assert spans.append(payload)
        ends.append(path.stat().st_size)
    spans.close()
    kept = min(cut, path.stat().st_size)
    os.truncate(path, kept)
    whole = sum(end <= kept for end in ends[1:])
    assert list(read_records(path)) == payloads[:whole]

    reopened = RecordFile(path, 2**20)
    assert reopened.append(b"next")
    reopened.close()
    assert list(read_records(path)) == [*payloads[:whole], b"next"]


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_record_is_counted_and_the_others_are_read(tmp_path: Path, damaged: int) -> None:
    path = tmp_path / "spans.otlp"
    spans = RecordFile(path, 2**20)
    payloads = [b"first", b"second", b"third"]
    for payload in payloads:
        spans.append(payload)
    spans.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(payloads[damaged], payloads[damaged].upper()))
    counted: list[None] = []
    found = list(read_records(path, damaged=lambda: counted.append(None)))
    assert found == [payload for i, payload in enumerate(payloads) if i != damaged]
    assert len(counted) == 1


def test_a_late_stamp_does_not_end_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "spans.otlp"
    with path.open("wb") as stream:
        for received in (10, 2**64 - 1, 20):
            payload = str(received).encode()
            stream.write(HEADER.pack(len(payload), zlib.crc32(payload), received) + payload)
    assert list(read_records(path, 5, 25)) == [b"10", b"20"]


def test_arrival_window_selects_records(tmp_path: Path) -> None:
    path = tmp_path / "spans.otlp"
    with path.open("wb") as stream:
        for received in (10, 20, 30):
            payload = str(received).encode()
            stream.write(HEADER.pack(len(payload), zlib.crc32(payload), received) + payload)
    assert list(read_records(path, 15, 25)) == [b"20"]
