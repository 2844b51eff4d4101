"""RCAEval: Pham et al., "RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems with Telemetry Data", WWW
Companion 2025: the layout of its data sets RE1, RE2 and RE3, and of arXiv 2603.02057, which runs its methods.

A case is a folder ``<service>_<fault>/<n>`` (also ``<service>_<fault>_<n>`` or ``<service>_<fault>``) with
``inject_time.txt`` (seconds since 1970), metrics (the first of ``METRIC_FILES`` that is there), and where recorded
``logs.csv`` and ``traces.csv``. The truth is in the folder's name; ``Overrides`` give it where the name does not say.

* A column is ``<service>_<metric>``: see :func:`split_column`. Metrics with the same meaning as ours get our name
  (``cpu`` is ``cpu_usage``). The layout does not say units, so there are none. ``latency`` alone is the 90th
  percentile, as RCAEval itself takes it.
* The baseline is everything before the inject time, the fault everything after it: its end is not stated.
* The truth at metric level follows from the fault: ``FAULT_METRICS``.
* Candidates are the services of the columns, logs and spans. ``xservice`` in spans is ``x`` if the columns know that.
* A folder that ``rcarena export`` wrote has ``rcarena.json``, which says the rest: the case comes back as it was, all
  but its requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.case import CaseRecord, Service, SignalName, Stack, as_signal
from tasks.datasets.dataset import (
    NANOSECONDS,
    Column,
    DatasetError,
    Digest,
    Draft,
    Found,
    Overrides,
    completeness,
    edge_table,
    metrics_table,
    most_common_root,
    span_calls,
    stated_injection,
    topology_table,
    two_phases,
    versions,
)
from tasks.datasets.rcaeval_sidecar import SIDECAR_FILE, Sidecar
from tasks.datasets.tables import Table, read_csv
from tasks.export.metric_map import SPECS

IMPORTER = "rcaeval 1"
METRIC_FILES = ("data.csv", "simple_metrics.csv", "simple_data.csv", "metrics.csv")
LOGS_FILE, TRACES_FILE, INJECT_TIME_FILE = "logs.csv", "traces.csv", "inject_time.txt"
EXPECTED = "expected folders <service>_<fault>/<n> with data.csv or simple_metrics.csv, and inject_time.txt"

METRICS = {
    "cpu": "cpu_usage",
    "mem": "memory_working_set",
    "memory": "memory_working_set",
    "diskio": "disk_io",
    "socket": "sockets",
    "workload": "request_rate",
    "error": "error_rate",
    "latency": "latency_p90",
    "latency-50": "latency_p50",
    "latency-90": "latency_p90",
    "lat_50": "latency_p50",
    "lat_90": "latency_p90",
    "ctn_cpu": "cpu_usage",
    "ctn_gpu": "accelerator_utilization",
    "ctn_network": "ctn_network",  # of arXiv 2603.02057: squared packets, and the rate of a gauge
    "ctn_memory": "ctn_memory",
    **{f"node_{name}": f"node_{name}" for name in ("cpu", "network", "memory")},
    **{name.replace("_", "-"): name for name in SPECS},
}
"""Metric as the layout calls it -> as we do. Whatever else there is keeps its name."""
FAULT_METRICS: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu_usage",),
    "mem": ("memory_working_set",),
    "memory": ("memory_working_set", "ctn_memory"),
    "disk": ("disk_io",),
    "socket": ("sockets",),
    "delay": ("latency_p50", "latency_p90"),
    "loss": ("latency_p50", "latency_p90"),
    "network": ("ctn_network",),
    "gpu": ("accelerator_utilization",),
}
FRONT_ENDS = ("frontend", "front-end", "ts-ui-dashboard", "nginx-proxy")
"""Of the systems in RCAEval and of the LLM stack; elsewhere the service in which most traces begin."""

_NODE_NAME = "node_name"
_LABELS = frozenset({"pod_name", "pod_ip", _NODE_NAME, "node_ip"})
_SUFFIXES = sorted({*METRICS, *SPECS, *_LABELS}, key=lambda name: (-len(name), name))
_MICROSECONDS = 1_000
_SPAN_KEY = ["trace_id", "span_id"]


def split_column(column: str) -> tuple[str, str] | None:
    """Service and metric of ``<service>_<metric>``, the metric as the layout calls it; None if there are no two parts.

    Both may contain ``_`` and ``-``: the longest known metric at the end counts, else what follows the last ``_``.
    """
    for suffix in _SUFFIXES:
        service = column.removesuffix(f"_{suffix}")
        if service and service != column:
            return service, suffix
    service, _, metric = column.rpartition("_")
    return (service, metric) if service and metric else None


def find(directory: Path, overrides: Overrides) -> Found:
    """The case folders below ``directory``, itself included."""
    folders = sorted({file.parent for name in METRIC_FILES for file in directory.rglob(name)}, key=_folder_order)
    if not folders:
        raise DatasetError(f"{directory}: {EXPECTED}")
    if overrides.names_a_case and len(folders) > 1:
        raise DatasetError(f"{directory}: {len(folders)} cases; --service, --fault, --inject-time are for a single one")
    return Found(tuple(RcaevalCase(folder, directory, overrides) for folder in folders))


def _folder_order(folder: Path) -> tuple[str, int, str]:
    return (str(folder.parent), int(folder.name) if folder.name.isdecimal() else 0, folder.name)


@dataclass(frozen=True)
class _Truth:
    """``inject``: ns since the epoch."""

    service: str
    fault: str
    inject: int


@dataclass(frozen=True)
class _Metrics:
    """``times``: (rows,) int64 ns; ``values``: (rows, columns); ``nodes``: service -> node, where a column says it."""

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray
    nodes: Mapping[str, str]


class RcaevalCase:
    """One case folder."""

    def __init__(self, folder: Path, root: Path, overrides: Overrides) -> None:
        self.folder = folder
        self._root = root
        self._overrides = overrides

    @property
    def origin(self) -> str:
        return self.folder.relative_to(self._root).as_posix() if self.folder != self._root else self.folder.name

    @property
    def _metrics_file(self) -> Path:
        return next(self.folder / name for name in METRIC_FILES if (self.folder / name).is_file())

    @cached_property
    def _sidecar(self) -> Sidecar | None:
        return Sidecar.read(self.folder / SIDECAR_FILE)

    def case_id(self) -> str:
        parts: list[str | Path] = [IMPORTER, str(self._overrides.front_end)]
        if self._sidecar is None:
            parts += [self._truth.service, self._truth.fault, str(self._truth.inject)]
        for name in (self._metrics_file.name, LOGS_FILE, TRACES_FILE, SIDECAR_FILE):
            if (self.folder / name).is_file():
                parts += [name, self.folder / name]
        return Digest().case_id("rcaeval", parts)

    @cached_property
    def _truth(self) -> _Truth:
        folder = self.folder.resolve()
        label = folder.parent.name if folder.name.isdecimal() else re.sub(r"_\d+$", "", folder.name)
        service, _, fault = label.rpartition("_")
        service = self._overrides.service or service
        fault = self._overrides.fault or (fault if "_" in label else "")
        if not service or not fault:
            raise DatasetError("the folder's name is not <service>_<fault>; give --service and --fault")
        return _Truth(service, fault, self._inject_time())

    def _inject_time(self) -> int:
        file = self.folder / INJECT_TIME_FILE
        try:
            stated = self._overrides.inject_time
            seconds = float(file.read_text(encoding="utf-8").split()[0]) if stated is None else stated
            return round(seconds * NANOSECONDS)
        except OSError as error:
            raise DatasetError(f"{file}: cannot be read: {error.strerror}; or give --inject-time") from error
        except (ValueError, IndexError, OverflowError):
            raise DatasetError(f"{file}: expected seconds since 1970") from None

    def read(self) -> Draft:
        return self._foreign() if self._sidecar is None else self._ours(self._sidecar)

    def _foreign(self) -> Draft:
        truth, metrics = self._truth, _read_metrics(self._metrics_file, {})
        before, after = metrics.times < truth.inject, metrics.times >= truth.inject
        for name, found in (("before", before), ("after", after)):
            if not found.any():
                seconds = truth.inject / NANOSECONDS
                raise DatasetError(f"{self._metrics_file}: no row {name} the inject time {seconds:.0f}")
        measured = {column.service for column in metrics.columns}
        logs = _renamed(self._events(LOGS_FILE, _read_logs), lambda name: _alias(name, measured))
        spans = _renamed(self._events(TRACES_FILE, _read_spans), lambda name: _alias(name, measured))
        services = sorted({*measured, *logs["service"].unique(), *spans["service"].unique()})
        target = _alias(truth.service, measured)
        if target not in services:
            raise DatasetError(f"{self._metrics_file}: no column, log or span of the root cause '{truth.service}'")
        step = int(np.median(np.diff(np.unique(metrics.times))))
        end = int(metrics.times.max()) + step
        cause = FAULT_METRICS.get(truth.fault, ())
        known = {column.metric for column in metrics.columns if column.service == target}
        calls = span_calls(spans)
        edges = topology_table(calls, metrics.nodes) if calls or metrics.nodes else None
        tables = _tables(metrics, logs, spans, edges)
        record = CaseRecord(
            case_id=self.case_id(),
            campaign="RCAEval",
            stack=Stack(
                backend="kubernetes",
                services=tuple(Service(name=name, role="service", node=metrics.nodes.get(name)) for name in services),
            ),
            front_end=self._front_end(services, spans),
            phases=two_phases(int(metrics.times.min()), truth.inject, end),
            injections=(
                stated_injection(truth.fault, target, truth.inject, end, [name for name in cause if name in known]),
            ),
            completeness=completeness(tables, {}),
            versions=versions(IMPORTER, {"origin": self.origin}),
        )
        return Draft(record, tables)

    def _ours(self, sidecar: Sidecar) -> Draft:
        metrics = _read_metrics(self._metrics_file, sidecar.columns)
        logs = _renamed(self._events(LOGS_FILE, _read_logs), lambda name: sidecar.services.get(name, name))
        spans = _renamed(self._events(TRACES_FILE, _read_spans), lambda name: sidecar.services.get(name, name))
        edges = edge_table(sidecar.topology) if sidecar.topology else None
        tables = _tables(metrics, logs, spans, edges)
        declared = completeness(tables, {}, {"requests": "the layout has none"})
        kept = {signal: sidecar.record.completeness[signal] for signal in tables}
        record = sidecar.record.model_copy(update={"case_id": self.case_id(), "completeness": {**declared, **kept}})
        return Draft(record, tables)

    def _events(self, name: str, read: Callable[[Table], pd.DataFrame]) -> pd.DataFrame:
        file = self.folder / name
        return (
            read(read_csv(file)) if file.is_file() else pd.DataFrame(columns=["service", "parent_span_id", *_SPAN_KEY])
        )

    def _front_end(self, services: Sequence[str], spans: pd.DataFrame) -> str:
        known = next((name for name in FRONT_ENDS if name in services), None)
        front_end = self._overrides.front_end or known or most_common_root(spans)
        if front_end is None or front_end not in services:
            raise DatasetError(
                f"{self.folder}: cannot tell the front end; give --front-end (one of {', '.join(services)})"
            )
        return front_end


def _tables(
    metrics: _Metrics, logs: pd.DataFrame, spans: pd.DataFrame, topology: pa.Table | None
) -> dict[SignalName, pa.Table]:
    tables: dict[SignalName, pa.Table] = {"metrics": metrics_table(metrics.times, metrics.columns, metrics.values)}
    if not spans.empty:
        tables["spans"] = as_signal("spans", spans)
    if not logs.empty:
        tables["logs"] = as_signal("logs", logs)
    if topology is not None:
        tables["topology"] = topology
    return tables


def _renamed(events: pd.DataFrame, name_of: Callable[[str], str]) -> pd.DataFrame:
    return events.assign(service=events["service"].map(name_of))


def _alias(service: str, measured: set[str]) -> str:
    """The spans of Online Boutique say ``frontendservice`` where its metrics say ``frontend``."""
    others = (service, service.removesuffix("service"), f"{service}service")
    return next((name for name in others if name in measured), service)


def _read_metrics(file: Path, known: Mapping[str, Column]) -> _Metrics:
    table = read_csv(file)
    table.require("time")
    if table.rows < 2:
        raise DatasetError(f"{file}: {table.rows} rows of metrics; expected two or more")
    columns: list[Column] = []
    values: list[np.ndarray] = []
    nodes: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for position, name in enumerate(table.names):
        parts = split_column(name)
        if name == "time" or (parts is None and name not in known):
            continue
        if parts is not None and parts[1] in _LABELS:
            node = next((text for text in table.text(position) if text), None)
            if parts[1] == _NODE_NAME and node:
                nodes[parts[0]] = str(node)
            continue
        column = known.get(name) or _column(name, taken)
        taken.add((column.service, column.metric))
        columns.append(column)
        values.append(table.numbers(position))
    if not columns:
        raise DatasetError(f"{file}: no column <service>_<metric>")
    return _Metrics(_epoch_ns(table, "time"), tuple(columns), np.column_stack(values), nodes)


def _column(name: str, taken: set[tuple[str, str]]) -> Column:
    service, metric = split_column(name) or (name, name)
    ours = METRICS.get(metric, metric)
    return Column(service, metric if (service, ours) in taken else ours, None, metric)


def _epoch_ns(table: Table, column: str) -> np.ndarray:
    """Times since 1970 as int64 ns: seconds in the metrics, ns in logs, us in traces; told apart by their size."""
    if not table.rows:
        return np.array([], dtype=np.int64)
    first = abs(float(table.numbers(column)[0]))
    unit = next(
        unit for limit, unit in ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000), (0, NANOSECONDS)) if first >= limit
    )
    return table.seconds(column, unit)


def _utc(times: np.ndarray) -> pd.Series:
    return pd.Series(pd.to_datetime(times, unit="ns", utc=True))


def _read_logs(table: Table) -> pd.DataFrame:
    time = "timestamp" if "timestamp" in table.names else "time"
    table.require(time, "container_name", "message")
    frame = pd.DataFrame(
        {
            "time": _utc(_epoch_ns(table, time)),
            "service": table.text("container_name"),
            "message": pd.Series(table.text("message"), dtype=object).fillna(""),
        }
    )
    for name in ("level", "template_id"):
        if name in table.names:
            frame[name] = table.text(name)
    return frame.dropna(subset=["service"]).sort_values("time", kind="stable")


def _read_spans(table: Table) -> pd.DataFrame:
    start = "startTime" if "startTime" in table.names else "startTimeMillis"
    table.require("traceID", "spanID", "serviceName", "operationName", start, "duration")
    operation = pd.Series(table.text("operationName"), dtype=object)
    if "methodName" in table.names:
        operation = pd.Series(table.text("methodName"), dtype=object).fillna(operation)
    frame = pd.DataFrame(
        {
            "trace_id": table.text("traceID"),
            "span_id": table.text("spanID"),
            "parent_span_id": table.text("parentSpanID") if "parentSpanID" in table.names else None,
            "service": table.text("serviceName"),
            "operation": operation.fillna(""),
            "start": _utc(_epoch_ns(table, start)),
            "duration": table.numbers("duration") * _MICROSECONDS / NANOSECONDS,
        }
    )
    if "attributes" in table.names:
        frame["attributes"] = table.text("attributes")
    if "statusCode" in table.names:
        frame["status_code"] = pd.to_numeric(pd.Series(table.text("statusCode")), errors="coerce").astype("Int32")
    return frame.dropna(subset=[*_SPAN_KEY, "service"]).drop_duplicates(_SPAN_KEY).sort_values("start", kind="stable")
