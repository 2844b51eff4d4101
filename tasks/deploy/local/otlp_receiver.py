"""A small OTLP/gRPC receiver that appends what it gets to one file.

``python -m tasks.deploy.local.otlp_receiver --listen 127.0.0.1:4317 --out spans.otlp``

Export requests are stored undecoded, so the cost per request is one write. Each record of the file is a 16-byte header
(payload length, CRC-32, time of arrival) and the serialized ``ExportTraceServiceRequest``. A record torn by ``kill -9``
is cut off when the receiver starts again, and a reader stops in front of it. Metrics and logs are accepted and dropped.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)

HEADER = struct.Struct("<IIQ")
"""Payload bytes, CRC-32 of the payload, arrival in nanoseconds since the epoch."""

MAX_REQUEST_BYTES = 8 * 2**20
"""Largest accepted request: with ``MAX_CONCURRENT`` this bounds the receiver's memory."""
MAX_CONCURRENT = 4

_SERVICES = {
    "opentelemetry.proto.collector.trace.v1.TraceService": True,
    "opentelemetry.proto.collector.metrics.v1.MetricsService": False,
    "opentelemetry.proto.collector.logs.v1.LogsService": False,
}


class SpanFile:
    """Append-only file of export requests; safe to call from several threads.

    Args:
        path: created if missing; a torn last record is cut off.
        max_bytes: size at which ``append`` starts to refuse.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with path.open("rb") as stream:
            self._size = sum(HEADER.size + len(payload) for _, payload in _records(stream))
        os.ftruncate(self._descriptor, self._size)

    def append(self, payload: bytes) -> bool:
        """Store one request. Return False when the file is full."""
        header = HEADER.pack(len(payload), zlib.crc32(payload), time.time_ns())
        with self._lock:
            if self._size + len(header) + len(payload) > self._max_bytes:
                return False
            written = os.writev(self._descriptor, [header, payload])
            if written != len(header) + len(payload):
                os.ftruncate(self._descriptor, self._size)
                return False
            self._size += written
        return True

    def close(self) -> None:
        with self._lock:
            os.close(self._descriptor)


def read_requests(
    path: Path,
    received_from_ns: int = 0,
    received_to_ns: int = 2**64 - 1,
    damaged: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """Yield the payloads that arrived within the two times, in order of arrival.

    A record with a wrong checksum is left out and ``damaged`` is called for it; reading ends before a torn record.
    """
    with path.open("rb") as stream:
        for _, payload in _records(stream, received_from_ns, received_to_ns, damaged):
            if payload:
                yield payload


def _records(
    stream: BinaryIO,
    received_from_ns: int = 0,
    received_to_ns: int = 2**64 - 1,
    damaged: Callable[[], None] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Whole records; one that did not arrive within the two times is skipped, not read. Without ``damaged``, the first
    with a wrong checksum ends them."""
    size = os.fstat(stream.fileno()).st_size
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        length, checksum, received_ns = HEADER.unpack(header)
        if stream.tell() + length > size:
            return
        if not received_from_ns <= received_ns <= received_to_ns:
            stream.seek(length, os.SEEK_CUR)
            continue
        payload = stream.read(length)
        if zlib.crc32(payload) == checksum:
            yield received_ns, payload
        elif damaged is None:
            return
        else:
            damaged()


def serve(listen: str, out: Path, max_bytes: int, stop: threading.Event) -> None:
    """Receive until ``stop`` is set.

    Raises:
        OSError: the address cannot be bound, or the file cannot be opened.
    """
    import grpc

    spans = SpanFile(out, max_bytes)
    refused = threading.Event()

    def store(payload: bytes, context: Any) -> bytes:
        if spans.append(payload):
            return b""
        if not refused.is_set():
            refused.set()
            log.error("%s has reached its limit of %d bytes or the disk is full: spans are refused", out, max_bytes)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the span file is full")
        return b""

    def drop(_payload: bytes, _context: Any) -> bytes:
        return b""

    def handler(function: Callable[[bytes, Any], bytes]) -> Any:
        return grpc.unary_unary_rpc_method_handler(function)

    server = grpc.server(
        ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="otlp"),
        maximum_concurrent_rpcs=MAX_CONCURRENT * 4,
        options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(name, {"Export": handler(store if keep else drop)})
            for name, keep in _SERVICES.items()
        ]
    )
    try:
        if not server.add_insecure_port(listen):
            raise OSError(f"{listen}: cannot be bound")
        server.start()
        log.info("receiving OTLP on %s into %s", listen, out)
        stop.wait()
        server.stop(grace=1).wait()
    except RuntimeError as error:
        raise OSError(f"{listen}: cannot be bound: {error}") from error
    finally:
        spans.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="otlp_receiver", description="Store OTLP spans in a file.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--max-mb", type=int, default=4096, help="size at which spans are refused (default 4096)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(options.listen, options.out, options.max_mb * 2**20, stop)
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
