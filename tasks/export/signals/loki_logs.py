"""The logs signal of a cluster."""

from __future__ import annotations

from datetime import timedelta

import orjson

from tasks.export.base import ExportContext, Sink, exporter
from tasks.export.sources.log_lines import READ_DELAY_NS, LogWindow, timed_rows
from tasks.export.sources.loki import service_of_stream

WRAPPED_IN = ("log", "message")
"""Keys of the JSON object in which some collectors wrap a line."""

CONTAINER_TIMEZONE = "UTC"


@exporter("loki", "logs")
def export_loki_logs(context: ExportContext, sink: Sink) -> list[str]:
    """Write every line of every stream of the stack's pods. A service without a stream in the window is a problem.

    Raises:
        ExportError: Loki does not answer.
    """
    sources = context.sources
    if sources.loki_url is None:
        return []
    if sources.log_selector is None:
        return ["Loki is there, but neither a namespace nor a selector of the stack's streams is set"]
    window = LogWindow.of(context.start, context.end, sources.log_timezone or CONTAINER_TIMEZONE)
    until = context.end + timedelta(microseconds=READ_DELAY_NS // 1000)
    heard: set[str] = set()
    with context.loki() as client:
        for stream in client.streams(sources.log_selector, context.start, until):
            service = service_of_stream(stream.labels, context.placement)
            if service is None or service not in context.roles:
                continue
            heard.add(service)
            for page in client.pages(stream.selector, context.start, until):
                sink.write(timed_rows(page.times_ns, [_unwrapped(line) for line in page.lines], service, window))
        problems = list(client.problems)
    return problems + [f"no log stream of {service}" for service in context.roles if service not in heard]


def _unwrapped(line: str) -> str:
    line = line.rstrip("\r\n")
    if not line.startswith("{"):
        return line
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line
    inner = next((entry[key] for key in WRAPPED_IN if isinstance(entry.get(key), str)), None)
    return line if inner is None else inner.rstrip("\r\n")
