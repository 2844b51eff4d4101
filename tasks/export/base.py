"""Interface of signal exporters: their context, the sink that they write to, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.case import SIGNALS, SignalName, Stack, as_signal
from tasks.errors import RCArenaError
from tasks.export.derived_metrics import derive_metrics
from tasks.export.grid import TimeGrid
from tasks.export.masking import masked
from tasks.export.queries.labelled import IDENTIFYING
from tasks.export.queries.promql import LabelScope
from tasks.export.sources.deepflow import DeepFlowClient, deepflow_calls, deepflow_spans
from tasks.export.sources.http import NO_ACCESS, HttpAccess, Patience, SourceError
from tasks.export.sources.labelled import (
    EXPORTED,
    POD_NAMES,
    SeriesOwner,
    label_scopes,
    names_of,
    resolve_owners,
    with_exported,
)
from tasks.export.sources.loki import LokiClient, access_log_entries
from tasks.export.sources.placement import Placement, PodPlacement, Units, inherit_gpus, merge_pods
from tasks.export.sources.pods import discover_pods
from tasks.export.sources.prometheus import PrometheusClient
from tasks.export.sources.spans import read_spans
from tasks.export.sources.trace_server import MOST_TRACES, TRACE_SERVERS, TraceServer
from tasks.left_out import LeftOut
from tasks.params import ExportParams
from tasks.plugins import Registry
from tasks.stack import Role

ROWS_PER_GROUP = 65_536


class ExportError(RCArenaError):
    """A configured telemetry source could not be read: the case should be tried again."""


ServerName = Literal["prometheus", "loki", "deepflow", "spans"]


@dataclass(frozen=True)
class TelemetrySources:
    """Telemetry sources of a running stack. None or an empty mapping: the stack has no such source.

    Without ``namespace`` services are processes, and series carry the label ``service``; with it they are pods, and
    the exporter joins series to services by ``namespace`` and ``pods``; with ``owners`` by the labels given there.

    Args:
        prometheus_url: base URL.
        otlp_file: file of the OTLP receiver.
        nginx_access_log: one JSON object per line.
        log_dirs: service -> directory with its log files.
        log_timezone: IANA name of the zone that log files are written in; None: this machine's, of containers UTC.
        calls: call edges (caller, callee) that the stack declares.
        settle_s: how long after the end of the window the last telemetry may still arrive.
        otlp_files: further OTLP files, or directories of them, such as the collector's file exporter writes.
        spans_url: server that holds spans, of the kind ``spans_kind`` (:mod:`tasks.export.trace_servers`).
        spans_services, spans_limit: see ``TraceServer``.
        spans_names: what spans are of -> service, beside what the placement knows.
        loki_url: base URL; logs, and the gateway's access log unless ``nginx_access_log`` is set.
        loki_selector: LogQL selector of the stack's streams; None: ``{namespace="<namespace>"}``.
        deepflow_url: base URL of DeepFlow's SQL API.
        access: server -> token file, CA, tenant.
        namespace: Kubernetes namespace of the stack.
        pods: the pods known to the deployment, with GPUs; kube-state-metrics, where it runs, tells their successors.
        service_label: pod label whose value is the service's name.
        aliases: further names, such as those of Kubernetes Services -> service.
        gpus: whether the stack has GPUs; False: no GPU metric is expected.
        owners: labels of series -> services, of a stack that somebody else deployed.
        timeout_s: how long a server may take for an answer; None: as its client waits.
        retries: further tries after the first; None: as its client tries.
    """

    prometheus_url: str | None = None
    otlp_file: Path | None = None
    nginx_access_log: Path | None = None
    log_dirs: Mapping[str, Path] = field(default_factory=dict)
    log_timezone: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    settle_s: float = 2.0
    otlp_files: tuple[Path, ...] = ()
    spans_url: str | None = None
    spans_kind: str = "files"
    spans_services: tuple[str, ...] = ()
    spans_names: Mapping[str, str] = field(default_factory=dict)
    spans_limit: int = MOST_TRACES
    loki_url: str | None = None
    loki_selector: str | None = None
    deepflow_url: str | None = None
    access: Mapping[ServerName, HttpAccess] = field(default_factory=dict)
    namespace: str | None = None
    pods: tuple[PodPlacement, ...] = ()
    service_label: str = "app"
    aliases: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = True
    owners: tuple[SeriesOwner, ...] = ()
    timeout_s: float | None = None
    retries: int | None = None

    @property
    def patience(self) -> Patience:
        """What clients of the servers are told of time-outs and retries."""
        given: Patience = {}
        if self.timeout_s is not None:
            given["timeout_s"] = self.timeout_s
        if self.retries is not None:
            given["retries"] = self.retries
        return given

    def open_spans(self) -> TraceServer | None:
        """Return a client of the server that holds spans. Raises SourceError: a file of its credentials is missing."""
        if self.spans_url is None:
            return None
        return TRACE_SERVERS.get(self.spans_kind)(
            self.spans_url,
            services=self.spans_services,
            limit=self.spans_limit,
            access=self.access.get("spans", NO_ACCESS),
            **self.patience,
        )

    @property
    def units(self) -> Units:
        """Kind of units that make up its services."""
        if self.owners:
            return "labelled"
        return "processes" if self.namespace is None else "pods"

    @property
    def otlp(self) -> tuple[Path, ...]:
        return (*((self.otlp_file,) if self.otlp_file else ()), *self.otlp_files)

    @property
    def log_selector(self) -> str | None:
        """LogQL selector of the stack's streams."""
        return self.loki_selector or (f'{{namespace="{self.namespace}"}}' if self.namespace else None)


@dataclass(frozen=True)
class ExportContext:
    """One export: the sources, the window (aware datetimes, UTC), the parameters and the stack.

    Properties query telemetry servers at first access and raise ExportError when one does not answer.

    ``forgiving``: logs and spans that cannot be read are missing, not an error.
    """

    sources: TelemetrySources
    start: datetime
    end: datetime
    params: ExportParams
    stack: Stack
    forgiving: bool = False

    @cached_property
    def roles(self) -> dict[str, Role]:
        return {service.name: service.role for service in self.stack.services}

    @cached_property
    def gateway(self) -> str | None:
        return next((service for service, role in self.roles.items() if role == "gateway"), None)

    @cached_property
    def grid(self) -> TimeGrid:
        """The times at which metrics are sampled: multiples of the step."""
        return TimeGrid.aligned(self.start, self.end, self.params.step_s)

    def access(self, server: ServerName) -> HttpAccess:
        return self.sources.access.get(server, NO_ACCESS)

    @contextmanager
    def prometheus(self) -> Iterator[PrometheusClient]:
        """Open the client of ``sources.prometheus_url``, which must be set. Translates its errors to ExportError."""
        assert self.sources.prometheus_url is not None
        with (
            export_errors_of("Prometheus"),
            PrometheusClient(
                self.sources.prometheus_url,
                lookback_s=self.params.rate_window_s,
                access=self.access("prometheus"),
                **self.sources.patience,
            ) as client,
        ):
            yield client

    @contextmanager
    def loki(self) -> Iterator[LokiClient]:
        """Open the client of ``sources.loki_url``, which must be set. Translates its errors to ExportError."""
        assert self.sources.loki_url is not None
        patience = self.sources.patience
        with (
            export_errors_of("Loki"),
            LokiClient(self.sources.loki_url, access=self.access("loki"), **patience) as client,
        ):
            yield client

    @cached_property
    def series_names(self) -> frozenset[str]:
        """Names of the series that Prometheus has in the window; asked once."""
        with self.prometheus() as client:
            return client.series_names(self.start.timestamp() - self.params.rate_window_s, self.end.timestamp())

    @cached_property
    def _placement(self) -> tuple[Placement, list[str]]:
        if self.sources.owners:
            return self._labelled_placement()
        pods, problems = self.sources.pods, []
        if self.sources.prometheus_url and self.sources.namespace:
            with self.prometheus() as client:
                found = discover_pods(
                    client, self.grid, self.sources.namespace, self.sources.service_label, tuple(self.roles)
                )
                problems = client.problems
            pods = merge_pods(pods, found)
        placed, assumptions = inherit_gpus(pods)
        placement = Placement(tuple(self.roles), placed, self.sources.namespace, self.sources.aliases)
        return placement, assumptions + problems

    def _labelled_placement(self) -> tuple[Placement, list[str]]:
        sources = self.sources
        if sources.prometheus_url is None:
            return Placement(tuple(self.roles), sources.pods, sources.namespace, sources.aliases), []
        witnesses = self.series_names & frozenset(IDENTIFYING)
        with self.prometheus() as client:
            matches, problems = resolve_owners(client, self.grid, sources.owners, witnesses)
            problems += client.problems
        aliases = {**names_of(matches), **sources.aliases}
        placement = Placement(tuple(self.roles), sources.pods, sources.namespace, aliases, with_exported(matches))
        return placement, problems

    @cached_property
    def label_scopes(self) -> tuple[LabelScope, ...]:
        """The sets of labels by which services of a stack of others are told apart."""
        original = tuple(
            match for match in self.placement.matches if not any(name.startswith(EXPORTED) for name in match.labels)
        )
        with self.prometheus() as client:
            exported = f"{EXPORTED}{POD_NAMES[0]}" in client.label_names(
                self.start.timestamp() - self.params.rate_window_s, self.end.timestamp()
            )
        return label_scopes(original, exported)

    @property
    def placement(self) -> Placement:
        """Pods, GPUs and addresses of each service in the window."""
        return self._placement[0]

    @property
    def placement_assumptions(self) -> list[str]:
        return self._placement[1]

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Spans that overlap the window or the rate window around it, re-parented; read once per export."""
        if self.forgiving:
            try:
                return self._all_spans()
            except ExportError as error:
                self.spans_left_out.problem(str(error))
                return self._spans_of(None, None)
        return self._all_spans()

    @cached_property
    def spans_left_out(self) -> LeftOut:
        """Unusable parts of the spans' files and logs; filled when ``spans`` is read."""
        return LeftOut()

    def _all_spans(self) -> pd.DataFrame:
        try:
            with export_errors_of("traces"), ExitStack() as held:
                server = self.sources.open_spans()
                if server is not None:
                    held.enter_context(server)
                return self._spans_of(server, self._logged_requests())
        except OSError as error:
            raise ExportError(f"spans: {error.filename or 'a file'}: {error.strerror or error}") from error

    def _spans_of(self, server: TraceServer | None, requests: pd.DataFrame | None) -> pd.DataFrame:
        sources = self.sources
        return read_spans(
            otlp=sources.otlp,
            server=server,
            namespace=sources.namespace,
            nginx_access_log=sources.nginx_access_log,
            requests=requests,
            others=deepflow_spans(self.deepflow_flows, self.placement) if sources.deepflow_url else None,
            gateway=self.gateway,
            services=tuple(self.roles),
            names={**self.placement.names, **sources.spans_names},
            start=self.start,
            end=self.end,
            margin_s=self.params.rate_window_s,
            left_out=self.spans_left_out,
        )

    def _logged_requests(self) -> pd.DataFrame | None:
        sources = self.sources
        if sources.nginx_access_log or not sources.loki_url or not sources.log_selector or not self.gateway:
            return None
        margin = timedelta(seconds=self.params.rate_window_s)
        with self.loki() as client:
            since, until = self.start - margin, self.end + margin
            entries = access_log_entries(
                client, sources.log_selector, self.placement, self.gateway, since, until, self.spans_left_out
            )
            for problem in client.problems:
                self.spans_left_out.problem(problem)
        return entries

    @cached_property
    def deepflow_flows(self) -> pd.DataFrame:
        """DeepFlow's log of requests in the window; empty without DeepFlow."""
        url = self.sources.deepflow_url
        if url is None:
            return DeepFlowClient.empty()
        with export_errors_of("DeepFlow"), DeepFlowClient(url, access=self.access("deepflow")) as client:
            flows = client.flows(self.start, self.end, self.sources.namespace)
            for problem in client.left_out.problems:
                self.spans_left_out.problem(problem)
        return flows

    @cached_property
    def deepflow_edges(self) -> tuple[tuple[str, str], ...]:
        return deepflow_calls(self.deepflow_flows, self.placement)

    @cached_property
    def derived_metrics(self) -> pd.DataFrame:
        """Rows of the metrics signal that come from spans; no rates of a sample of them."""
        spans = self.spans
        gateway = None if self.spans_left_out.sampled else self.gateway
        return derive_metrics(spans, gateway, self.grid, self.params.rate_window_s)

    @cached_property
    def derived(self) -> frozenset[tuple[str, str]]:
        """The ``(metric, service)`` pairs derived from spans."""
        pairs = self.derived_metrics[["metric", "service"]].drop_duplicates()
        return frozenset(pairs.itertuples(index=False, name=None))


@contextmanager
def export_errors_of(server: str) -> Iterator[None]:
    """Translate errors of a telemetry server into ExportError, which names ``server``."""
    try:
        yield
    except SourceError as error:
        raise ExportError(f"{server}: {error}") from error


class Sink:
    """Streams the rows of one signal into its Parquet file; a signal without rows leaves no file.

    Rows are buffered until a row group is full, so that small tables do not make small groups. ``mask``: patterns of
    what log lines must not show (:mod:`tasks.export.masking`).
    """

    def __init__(self, signal: SignalName, path: Path, mask: Sequence[str] = ()) -> None:
        self.signal = signal
        self._mask = mask
        self.path = path
        self.rows = 0
        self.notes: dict[str, None] = {}
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
        arrow = masked(self.signal, arrow, self._mask)
        self.rows += arrow.num_rows
        self._pending.append(arrow)
        self._pending_rows += arrow.num_rows
        if self._pending_rows >= ROWS_PER_GROUP:
            self._flush()

    def note(self, lines: Iterable[str]) -> None:
        """Add remarks on the rows that do not make the signal incomplete."""
        self.notes.update(dict.fromkeys(lines))

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

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()


Exporter = Callable[[ExportContext, Sink], list[str]]
"""Writes rows to the sink and returns one line per missing thing; empty when the signal is complete."""


@dataclass(frozen=True)
class RegisteredExporter:
    name: str
    signal: SignalName
    export: Exporter


EXPORTERS: Registry[RegisteredExporter] = Registry("exporter", "rcarena.exporters", ["tasks.export.signals"])


def exporter(name: str, signal: SignalName) -> Callable[[Exporter], Exporter]:
    """Register a function as an exporter of ``signal``. Several exporters may feed one signal.

    Raises:
        ValueError: the name is taken by another function, or the signal is not one of the case contract.
    """
    if signal not in SIGNALS:
        raise ValueError(f"exporter '{name}': unknown signal '{signal}'; allowed: {', '.join(SIGNALS)}")

    def register(function: Exporter) -> Exporter:
        EXPORTERS.register(name, RegisteredExporter(name, signal, function), function.__module__)
        return function

    return register


def registered_exporters(signal: SignalName) -> list[RegisteredExporter]:
    """Return the exporters of ``signal``, sorted by name.

    Raises:
        PluginError: another package offers an exporter that cannot be used. Leaving it out would lose what it records.
    """
    return [entry for _, entry in sorted(EXPORTERS.require_all().items()) if entry.signal == signal]
