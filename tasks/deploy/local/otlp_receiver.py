"""OTLP/gRPC receiver that appends export requests to one file.

``python -m tasks.deploy.local.otlp_receiver --listen 127.0.0.1:4317 --out spans.otlp``

Export requests are stored undecoded, as serialized ``ExportTraceServiceRequest``, so the cost per request is one write
(``tasks.system.record_file``). Metrics and logs are accepted and dropped.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.system.record_file import RecordFile

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 8 * 2**20
"""Largest accepted request: with ``MAX_CONCURRENT`` this bounds the receiver's memory."""
MAX_CONCURRENT = 4

_SERVICES = {
    "opentelemetry.proto.collector.trace.v1.TraceService": True,
    "opentelemetry.proto.collector.metrics.v1.MetricsService": False,
    "opentelemetry.proto.collector.logs.v1.LogsService": False,
}


def serve(listen: str, out: Path, max_bytes: int, stop: threading.Event) -> None:
    """Receive until ``stop`` is set.

    Raises:
        OSError: the address cannot be bound, or the file cannot be opened.
    """
    import grpc

    spans = RecordFile(out, max_bytes)
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
