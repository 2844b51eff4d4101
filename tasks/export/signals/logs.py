"""The logs signal."""

from __future__ import annotations

from tasks.export.base import ExportContext, ExportError, Sink, exporter
from tasks.export.sources.log_lines import LogWindow, log_files, read_log


@exporter("logs", "logs")
def export_logs(context: ExportContext, sink: Sink) -> list[str]:
    """Write every log file of every service. A service that wrote nothing in the window is not a problem; one without a
    log file is, unless all logs are in Loki. A stack of others has Loki or nothing.

    Raises:
        ExportError: a log file cannot be read.
    """
    if not context.sources.log_dirs and context.sources.loki_url:
        return []
    if context.sources.units == "labelled":
        return ["no logs are given (deploy.loki)"]
    window = LogWindow.of(context.start, context.end, context.sources.log_timezone)
    problems = []
    for service in context.roles:
        directory = context.sources.log_dirs.get(service)
        files = log_files(directory) if directory is not None else []
        if not files:
            problems.append(f"no log file of {service}")
        for file in files:
            try:
                for rows in read_log(file, service, window):
                    sink.write(rows)
            except FileNotFoundError:
                continue  # rotated away while we looked
            except OSError as error:
                raise ExportError(f"log file {file}: {error.strerror}") from error
    return problems
