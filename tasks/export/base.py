"""What every signal exporter gets, what it writes to, and how it registers itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.case import SIGNALS, SignalName, Stack, as_signal
from tasks.export.prometheus import TimeGrid
from tasks.export.span_metrics import derive_metrics
from tasks.export.spans import read_spans
from tasks.params import ExportParams
from tasks.stack import Role

ROWS_PER_GROUP = 131_072


class ExportError(RuntimeError):
    """A telemetry source that was named could not be read: the case should be tried again."""


@dataclass(frozen=True)
class TelemetrySources:
    """Where the telemetry of a running stack is. None or an empty mapping: the stack has no such source.

    Args:
        prometheus_url: base URL; its series carry the label ``service``.
        otlp_file: what the OTLP receiver writes.
        nginx_access_log: one JSON object per line.
        log_dirs: service -> directory with its log files.
        log_timezone: IANA name of the zone that log files are written in; None: this machine's.
        calls: call edges (caller, callee) that the stack declares.
        settle_s: how long after the end of the window the last telemetry may still arrive.
    """

    prometheus_url: str | None = None
    otlp_file: Path | None = None
    nginx_access_log: Path | None = None
    log_dirs: Mapping[str, Path] = field(default_factory=dict)
    log_timezone: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    settle_s: float = 2.0


@dataclass(frozen=True)
class ExportContext:
    """One export: the sources, the window (aware datetimes, UTC), the parameters and the stack."""

    sources: TelemetrySources
    start: datetime
    end: datetime
    params: ExportParams
    stack: Stack

    @cached_property
    def roles(self) -> dict[str, Role]:
        return {service.name: service.role for service in self.stack.services}

    @cached_property
    def gateway(self) -> str | None:
        return next((service for service, role in self.roles.items() if role == "gateway"), None)

    @cached_property
    def grid(self) -> TimeGrid:
        """The times at which metrics are sampled."""
        return TimeGrid.between(self.start, self.end, self.params.step_s)

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Spans that overlap the window or the rate window around it, re-parented; read once per export."""
        return read_spans(
            otlp_file=self.sources.otlp_file,
            nginx_access_log=self.sources.nginx_access_log,
            gateway=self.gateway,
            services=tuple(self.roles),
            start=self.start,
            end=self.end,
            margin_s=self.params.rate_window_s,
        )

    @cached_property
    def derived_metrics(self) -> pd.DataFrame:
        """Rows of the metrics signal that come from spans."""
        return derive_metrics(self.spans, self.gateway, self.grid, self.params.rate_window_s)

    @cached_property
    def derived(self) -> frozenset[tuple[str, str]]:
        """The ``(metric, service)`` pairs that the spans yield."""
        pairs = self.derived_metrics[["metric", "service"]].drop_duplicates()
        return frozenset(pairs.itertuples(index=False, name=None))


class Sink:
    """Streams the rows of one signal into its Parquet file; a signal without rows leaves no file.

    Rows are held until a row group is full, so many small tables do not make many small groups.
    """

    def __init__(self, signal: SignalName, path: Path) -> None:
        self.signal = signal
        self.path = path
        self.rows = 0
        self._schema = SIGNALS[signal]
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table | pd.DataFrame) -> None:
        """Append rows; columns as in the signal's schema, missing nullable ones become null."""
        arrow = table if isinstance(table, pa.Table) and table.schema.equals(self._schema) else None
        if arrow is None:
            arrow = as_signal(self.signal, table)
        if not arrow.num_rows:
            return
        self.rows += arrow.num_rows
        self._pending.append(arrow)
        self._pending_rows += arrow.num_rows
        if self._pending_rows >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self.path,
                self._schema,
                compression="zstd",
                use_dictionary=[field.name for field in self._schema if pa.types.is_dictionary(field.type)],
                column_encoding={
                    field.name: "DELTA_BINARY_PACKED" for field in self._schema if pa.types.is_timestamp(field.type)
                },
            )
        table = pa.concat_tables(self._pending).unify_dictionaries()
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._pending, self._pending_rows = [], 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()


Exporter = Callable[[ExportContext, Sink], list[str]]
"""Writes rows to the sink and returns what is missing from them, one line each; empty: everything expected came."""


@dataclass(frozen=True)
class RegisteredExporter:
    name: str
    signal: SignalName
    export: Exporter


_REGISTRY: dict[str, RegisteredExporter] = {}


def exporter(name: str, signal: SignalName) -> Callable[[Exporter], Exporter]:
    """Register a function as an exporter of ``signal``. Several exporters may feed one signal.

    Raises:
        ValueError: the name is taken by another function, or the signal is not one of the case contract.
    """
    if signal not in SIGNALS:
        raise ValueError(f"exporter '{name}': unknown signal '{signal}'; allowed: {', '.join(SIGNALS)}")

    def register(function: Exporter) -> Exporter:
        known = _REGISTRY.get(name)
        if known is not None and known.export.__module__ != function.__module__:
            raise ValueError(f"exporter '{name}' is already registered by {known.export.__module__}")
        _REGISTRY[name] = RegisteredExporter(name, signal, function)
        return function

    return register


def registered_exporters(signal: SignalName) -> list[RegisteredExporter]:
    """In order of name, so that files come out the same whatever was imported first."""
    return sorted((entry for entry in _REGISTRY.values() if entry.signal == signal), key=lambda entry: entry.name)
