"""Exports the telemetry of one window as the signals of a case."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow.parquet as pq

from tasks.case import METRICS, NO_ROW, SIGNALS, CaseWriter, Completeness, SignalName, Stack
from tasks.export.base import ExportContext, ExportError, Sink, TelemetrySources, registered_exporters
from tasks.export.queries.metrics import SPECS, absent_metrics, missing_metrics
from tasks.export.signals.prometheus_metrics import export_metric
from tasks.metrics import Metric
from tasks.params import ExportParams

log = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 2000


def export_case(
    writer: CaseWriter,
    sources: TelemetrySources,
    window: tuple[datetime, datetime],
    params: ExportParams,
    stack: Stack,
    signals: Collection[SignalName] = tuple(SIGNALS),
    forgiving: bool = False,
) -> dict[SignalName, Completeness]:
    """Write every one of ``signals`` that has an exporter; the load stage writes ``requests``.

    Args:
        window: start and end of the recorded phases, with a time zone. Waits until ``sources.settle_s`` after the end.

        forgiving: logs and spans of a server that does not answer are missing, with the reason; metrics never are.

    Returns:
        Signal -> its completeness, with what is missing.

    Raises:
        ExportError: a source in ``sources`` does not answer or cannot be read; the case is not finished.
        ValueError: the window ends before it starts, or has no time zone.
    """
    start, end = window
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("window: both times need a time zone")
    time.sleep(min(max(0.0, end.timestamp() + sources.settle_s - time.time()), sources.settle_s))
    context = ExportContext(sources, start, end, params, stack, forgiving)
    return {signal: _export_signal(signal, writer, context) for signal in signals if registered_exporters(signal)}


def check_metrics(
    sources: TelemetrySources, window: tuple[datetime, datetime], params: ExportParams, stack: Stack
) -> dict[str, tuple[str, ...]]:
    """Return the canonical metrics missing from a running stack in ``window``: metric -> services that lack it.
    ``explain_missing`` names the series needed.

    Raises:
        ExportError: Prometheus does not answer.
    """
    context = ExportContext(sources, *window, params, stack)
    with TemporaryDirectory() as directory:
        file = Path(directory) / "metrics.parquet"
        with Sink("metrics", file) as sink:
            for registered in registered_exporters("metrics"):
                registered.export(context, sink)
        if not sink.rows:
            return missing_metrics((), context.roles, sources.units, gpus=sources.gpus)
        table = pq.read_table(file, columns=["metric", "service", "value"]).to_pandas().dropna()
    found = set(table[["metric", "service"]].drop_duplicates().itertuples(index=False, name=None))
    return missing_metrics(found, context.roles, sources.units, gpus=sources.gpus)


def read_metrics(
    sources: TelemetrySources,
    window: tuple[datetime, datetime],
    params: ExportParams,
    stack: Stack,
    metrics: Collection[Metric],
) -> pd.DataFrame:
    """Return samples of some canonical metrics that Prometheus has in ``window``: rows of the metrics signal.

    Raises:
        ExportError: Prometheus does not answer.
    """
    context = ExportContext(sources, *window, params, stack)
    with TemporaryDirectory() as directory:
        file = Path(directory) / "metrics.parquet"
        with Sink("metrics", file) as sink, context.prometheus() as client:
            for metric in metrics:
                export_metric(client, SPECS[metric.name], context, sink)
        return pq.read_table(file).to_pandas() if sink.rows else METRICS.empty_table().to_pandas()


def check_series(
    sources: TelemetrySources, window: tuple[datetime, datetime], params: ExportParams, stack: Stack
) -> dict[str, tuple[str, ...]]:
    """Return the canonical metrics that no series in Prometheus can fill in ``window``: metric -> services that would
    lack it. Works without a stack: metrics from spans, Ray and vLLM are not checked.

    Raises:
        ExportError: Prometheus does not answer, or ``sources`` names none.
    """
    context = ExportContext(sources, *window, params, stack)
    if sources.prometheus_url is None:
        raise ExportError("no Prometheus is set")
    with context.prometheus() as client:
        names = client.series_names(window[0].timestamp(), window[1].timestamp())
    return absent_metrics(names, context.roles, sources.units, gpus=sources.gpus)


def _export_signal(signal: SignalName, writer: CaseWriter, context: ExportContext) -> Completeness:
    problems: list[str] = []
    began = time.perf_counter()
    with Sink(signal, writer.path(signal), context.params.mask) as sink:
        for registered in registered_exporters(signal):
            try:
                problems += registered.export(context, sink)
            except ExportError as error:
                if not (context.forgiving and signal == "logs"):
                    raise
                problems.append(str(error))
    log.info("%s: %d rows in %.2f s", signal, sink.rows, time.perf_counter() - began)
    completeness = _completeness(sink.rows, problems, list(sink.notes))
    if problems:
        log.warning("%s: %s: %s", signal, completeness.status, completeness.reason)
    return completeness


def _completeness(rows: int, problems: list[str], notes: list[str]) -> Completeness:
    """Return the completeness; ``notes`` follow the problems and do not make a signal partial."""
    reason = "; ".join(problems + notes)
    if len(reason) > MAX_REASON_CHARACTERS:
        reason = reason[:MAX_REASON_CHARACTERS].rpartition("; ")[0] + f"; … ({len(problems + notes)} in all)"
    if not rows:
        return Completeness(status="missing", reason=reason or NO_ROW)
    return Completeness(status="partial" if problems else "complete", reason=reason)
