"""Probes on this machine; they do not need the telemetry of the stack."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

from tasks.deploy.local.layout import SPANS_FILE
from tasks.engine import DECODE_TIME, ENGINE_SPAN, OUTPUT_TOKENS
from tasks.inject.errors import FaultError
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.probe import Gauge, Probe, Rate, Sample, StepTime
from tasks.system.process import ProcessId
from tasks.system.record_file import read_records

ECHO_REPLY, ECHO_REQUEST = 0, 8
_ECHO_HEADER = struct.Struct("!BBHHH")
_SO_TIMESTAMPNS = 35
_TCP_LISTEN = b"0A"
WRITTEN_WITHIN_NS = 500_000_000
"""A record of spans is in its file at most so long after the time in its header."""


class CpuDemand(Probe):
    """Samples the cores that the threads of the cgroup used or waited for, from the scheduler's statistics per thread.

    Time waited shows competition for the CPU even on a busy machine, where usage says little.
    """

    name, unit = "CPU that the cgroup used or waited for", "cores"
    interval_s = 1.0

    def __init__(self, target: LocalTarget) -> None:
        self._target = target
        self._last: tuple[float, dict[int, int]] | None = None

    def tick(self) -> list[Sample]:
        now, demand = time.monotonic(), self._read()
        last, self._last = self._last, (now, demand)
        if last is None or now <= last[0]:
            return []
        before, known = last
        grown_ns = sum(total - known.get(thread, 0) for thread, total in demand.items())
        return [Sample(before, now, grown_ns / 1e9 / (now - before))]

    def reduce(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)

    def _read(self) -> dict[int, int]:
        """Return nanoseconds run and waited, by thread."""
        found: dict[int, int] = {}
        for pid in self._target.cgroup.pids():
            with contextlib.suppress(OSError):  # it ended meanwhile
                for task in Path(f"/proc/{pid}/task").iterdir():
                    ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
                    found[int(task.name)] = int(ran) + int(waited)
        return found


def cpu_throttling(target: LocalTarget) -> Probe:
    return Rate("CPU time waited for because the quota was spent", "s/s", target.cgroup.throttled_seconds)


def memory_usage(target: LocalTarget) -> Probe:
    return Gauge("memory of the cgroup", "MiB", lambda: target.cgroup.memory_usage() / 2**20)


def stopped_share(name: str, which: Callable[[], Mapping[int, str]]) -> Probe:
    """Sample the share of the processes (pid -> state) that are stopped."""

    def read() -> float:
        states = list(which().values())
        return 100 * states.count("T") / len(states) if states else 0.0

    return Gauge(name, "%", read)


class FirstProcesses(Probe):
    """Samples the share of the first processes that still run. Its ports show whether the service is back."""

    name, unit = "first processes of the service that still run", "%"

    def __init__(self, target: LocalTarget) -> None:
        self.ports = OpenPorts(target)
        self._first = [ProcessId.of(pid) for pid in target.processes()]

    def tick(self) -> list[Sample]:
        now = time.monotonic()
        alive = sum(process.alive for process in self._first)
        return [Sample(now, now, 100 * alive / len(self._first))] if self._first else []

    def close(self) -> None:
        self.ports.close()


class LastSampleAge(Probe):
    """Samples the age of the newest sample that Prometheus has of the service, whichever exporter it came from."""

    name, unit = "age of the newest sample of the service", "s"
    interval_s = 1.0
    look_back_s = 120.0
    series = "container_threads|ray_node_mem_used|nginx_connections_active"
    """One of each exporter."""

    def __init__(self, target: LocalTarget) -> None:
        self._target = target
        self._selector = f'{{__name__=~"{self.series}",service="{target.name}"}}'

    def tick(self) -> list[Sample]:
        try:
            found = self._target.prometheus_samples(self._selector, self.look_back_s)
        except (FaultError, OSError):
            return []
        newest = max((series.points[-1][0] for series in found if series.points), default=None)
        now = time.monotonic()
        return [Sample(now, now, self.look_back_s if newest is None else max(0.0, time.time() - newest))]


class SpanStepTime(StepTime):
    """Samples the requests that the replica has ended, from the spans that its engine sends: decode time per token.

    Ray exports the engine's histograms distorted and its gauges every other second, which is too rare for requests of
    a fifth of a second.
    """

    rise = 0.25
    """Siblings without a fault differ by up to 15 % between two windows of 22 s on a busy machine."""
    before_window_s = 25.0
    """Shorter than warm-up and baseline of the default campaign: an earlier case must not reach into it."""
    late_s = 3.0
    why_unmeasured = "the replica ended no request, or its spans are missing"

    def __init__(self, target: LocalTarget) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self._request = ExportTraceServiceRequest
        self._service = target.name
        self._file = target.directory / SPANS_FILE if target.directory is not None else None
        self._read_to_ns = time.time_ns() - round(1e9 * self.before_window_s)
        self._known: list[Sample] = []

    def tick(self) -> list[Sample]:
        if self._file is None:
            return []
        from_ns, self._read_to_ns = self._read_to_ns, time.time_ns() - WRITTEN_WITHIN_NS
        try:
            records = list(read_records(self._file, from_ns, self._read_to_ns - 1))
        except OSError:
            return []
        fresh = [sample for record in records for sample in self._requests(record)]
        self._known += fresh
        return fresh

    def comparable(self, samples: Sequence[Sample], reference: Sequence[Sample]) -> list[float]:
        return super().comparable(self._loaded(samples), self._loaded(reference))

    def _requests(self, record: bytes) -> Iterator[Sample]:
        """Yield the engine's requests of one export of spans that have more than one token."""
        clock = time.monotonic() - time.time()
        for resource in self._request.FromString(record).resource_spans:
            if not any(
                each.key == "k8s.pod.name" and each.value.string_value == self._service
                for each in resource.resource.attributes
            ):
                continue
            for span in (span for scope in resource.scope_spans for span in scope.spans if span.name == ENGINE_SPAN):
                values = {each.key: each.value for each in span.attributes if each.key in (DECODE_TIME, OUTPUT_TOKENS)}
                if len(values) < 2 or values[OUTPUT_TOKENS].int_value < 2:
                    continue
                end, decode_s = span.end_time_unix_nano / 1e9 + clock, values[DECODE_TIME].double_value
                yield Sample(end - decode_s, end, 1e3 * decode_s / (values[OUTPUT_TOKENS].int_value - 1))

    def _loaded(self, phase: Sequence[Sample]) -> list[Sample]:
        """Return the samples of a phase with the mean number of requests that were decoded meanwhile, each itself
        included, and with the phase's tokens per second."""
        if not phase:
            return []
        period_s = max(each.end for each in phase) - min(each.start for each in phase)
        work = sum(1e3 * (each.end - each.start) / each.value for each in phase) / max(1e-9, period_s)
        return [replace(each, load=self._running(each.start, each.end), work=work) for each in phase]

    def _running(self, start: float, end: float) -> float:
        shared = sum(max(0.0, min(end, each.end) - max(start, each.start)) for each in self._known)
        return max(1.0, shared / max(1e-9, end - start))


class Pinger:
    """Sends ICMP echo requests from the fabric to the service, answered by the kernel even if processes are stopped.

    It does not block. The kernel stamps arrivals, so reading late adds no delay.
    """

    def __init__(self, target: LocalTarget, payload_bytes: int) -> None:
        self._address = target.service.address
        self._payload = b"\0" * payload_bytes
        self._identity = int.from_bytes(os.urandom(2), "big")
        self._sequence = 0
        self.wire_bytes = payload_bytes + 8 + 20 + 14
        self.unanswered: dict[int, Echo] = {}
        self._socket = target.in_fabric_network(_echo_socket)

    def send(self) -> None:
        self._sequence = (self._sequence + 1) % 2**16
        packet = _echo_request(self._identity, self._sequence, self._payload)
        self.unanswered[self._sequence] = Echo(time.monotonic(), time.time_ns())
        with contextlib.suppress(OSError):  # unreachable counts as lost
            self._socket.sendto(packet, (self._address, 0))

    def replies(self) -> list[Echo]:
        """Return the echoes that were answered since the last call."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(65_536, 64)
            except OSError:
                break
            header = packet[(packet[0] & 0x0F) * 4 :]
            if len(header) < _ECHO_HEADER.size:
                continue
            kind, _, _, identity, sequence = _ECHO_HEADER.unpack_from(header)
            if kind != ECHO_REPLY or identity != self._identity:
                continue
            echo = self.unanswered.pop(sequence, None)
            if echo is not None:
                echo.round_trip_s = (_arrival_ns(ancillary) - echo.sent_ns) / 1e9
                found.append(echo)
        return found

    def close(self) -> None:
        self._socket.close()


@dataclass
class Echo:
    """One echo request: its send time (monotonic seconds, wall nanoseconds) and round-trip time."""

    sent: float
    sent_ns: int
    round_trip_s: float | None = None


class EchoProbe(Probe):
    payload_bytes: ClassVar[int] = 32

    def __init__(self, target: LocalTarget) -> None:
        self._pinger = Pinger(target, self.payload_bytes)

    def close(self) -> None:
        self._pinger.close()


class RoundTrip(EchoProbe):
    name, unit = "round trip from the fabric to the service", "ms"
    interval_s = 0.1
    min_samples = 3

    def tick(self) -> list[Sample]:
        answered = self._pinger.replies()
        self._pinger.send()
        return [Sample(echo.sent, echo.sent, 1e3 * (echo.round_trip_s or 0.0)) for echo in answered]


class Loss(EchoProbe):
    """Samples the share of echoes without an answer within ``timeout_s``, counted after that time."""

    name, unit = "echoes lost between the fabric and the service", "%"
    interval_s = 0.05
    min_samples = 10

    timeout_s = 0.5

    def __init__(self, target: LocalTarget) -> None:
        super().__init__(target)
        self._answered: list[Echo] = []

    def tick(self) -> list[Sample]:
        self._answered += self._pinger.replies()
        self._pinger.send()
        limit = time.monotonic() - self.timeout_s
        samples = [Sample(echo.sent, echo.sent, 0.0) for echo in self._answered if echo.sent < limit]
        self._answered = [echo for echo in self._answered if echo.sent >= limit]
        overdue = [sequence for sequence, echo in self._pinger.unanswered.items() if echo.sent < limit]
        lost = [self._pinger.unanswered.pop(sequence) for sequence in overdue]
        return samples + [Sample(echo.sent, echo.sent, 100.0) for echo in lost]

    def reduce(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)


class Throughput(EchoProbe):
    """Samples the rate at which the service's link sends back a burst of full-size echoes, in kbit/s on the wire.

    The burst is small, since the link carries the service's traffic, too; bursts do not overlap.
    """

    name, unit = "rate of echoes from the service", "kbit/s"
    interval_s = 0.05
    min_samples = 1
    payload_bytes = 1_400
    burst, pause_s, timeout_s = 6, 2.0, 3.0

    def __init__(self, target: LocalTarget) -> None:
        super().__init__(target)
        self._next_burst = time.monotonic()
        self._started: float | None = None
        self._answered: list[Echo] = []

    def tick(self) -> list[Sample]:
        now = time.monotonic()
        self._answered += self._pinger.replies()
        if self._started is None:
            if now >= self._next_burst:
                self._started, self._answered = now, []
                for _ in range(self.burst):
                    self._pinger.send()
            return []
        if len(self._answered) < self.burst and now - self._started < self.timeout_s:
            return []
        started, self._started = self._started, None
        self._pinger.unanswered.clear()
        self._next_burst = now + self.pause_s
        elapsed = max((echo.round_trip_s or 0.0 for echo in self._answered), default=self.timeout_s)
        sent_bits = len(self._answered) * self._pinger.wire_bytes * 8
        return [Sample(started, now, sent_bits / 1e3 / max(elapsed, 1e-6))]


class OpenPorts:
    """Counts the TCP sockets of the service that listen; Ray and vLLM pick most ports at random."""

    ENOUGH = 0.75

    def __init__(self, target: LocalTarget) -> None:
        self._tables = target.in_service_network(_listen_tables)
        self._first = self._count()

    def are_back(self) -> bool:
        return self._count() >= self.ENOUGH * self._first

    def _count(self) -> int:
        count = 0
        for table in self._tables:
            table.seek(0)
            count += sum(line.split()[3] == _TCP_LISTEN for line in table.read().splitlines()[1:])
        return count

    def close(self) -> None:
        for table in self._tables:
            table.close()


def _listen_tables() -> list[BinaryIO]:
    """Open the socket tables of the calling thread's network namespace; they stay bound to it."""
    return [path.open("rb") for name in ("tcp", "tcp6") if (path := Path(f"/proc/thread-self/net/{name}")).exists()]


def _echo_socket() -> socket.socket:
    echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    echo.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    echo.setblocking(False)
    return echo


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack_from("qq", data)
            return int(seconds) * 10**9 + int(nanoseconds)
    return time.time_ns()


def _echo_request(identity: int, sequence: int, payload: bytes) -> bytes:
    blank = _ECHO_HEADER.pack(ECHO_REQUEST, 0, 0, identity, sequence) + payload
    return _ECHO_HEADER.pack(ECHO_REQUEST, 0, _internet_checksum(blank), identity, sequence) + payload


def _internet_checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
