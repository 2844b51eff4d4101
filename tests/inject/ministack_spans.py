"""Sends what the services of the miniature stack compute as spans of vLLM's engine: ``BURSTS SPANS_FILE``.

In the directory ``BURSTS`` each service writes a file of its name, a line per burst: end (ns since the epoch), seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.engine import DECODE_TIME, ENGINE_SPAN, OUTPUT_TOKENS
from tasks.system.record_file import RecordFile


def export_request(service: str, bursts: list[tuple[int, float]]) -> bytes:
    """One export of a service's spans; a burst is a request of two tokens, so its duration is that of one step."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="k8s.pod.name").value.string_value = service
    spans = resource.scope_spans.add().spans
    for end_ns, seconds in bursts:
        span = spans.add(
            name=ENGINE_SPAN, start_time_unix_nano=end_ns - round(1e9 * seconds), end_time_unix_nano=end_ns
        )
        span.attributes.add(key=DECODE_TIME).value.double_value = seconds
        span.attributes.add(key=OUTPUT_TOKENS).value.int_value = 2
    return bytes(request.SerializeToString())


def main(directory: Path, out: Path) -> None:
    spans = RecordFile(out, 2**30)
    sent: dict[Path, int] = {}
    while True:
        for file in directory.iterdir():
            lines = file.read_text(encoding="ascii").split("\n")[:-1]
            fresh = [line.split() for line in lines[sent.get(file, 0) :]]
            sent[file] = len(lines)
            if fresh:
                spans.append(export_request(file.name, [(int(end), float(seconds)) for end, seconds in fresh]))
        time.sleep(0.25)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
