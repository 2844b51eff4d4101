"""RCAEval: Pham et al., "RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems with Telemetry Data", WWW
Companion 2025: the layout of its data sets RE1, RE2 and RE3, and of arXiv 2603.02057, which runs its methods.

A case is a folder ``<service>_<fault>/<n>`` (also ``<service>_<fault>_<n>``, ``<service>_<fault>``, and
``<benchmark>_<service>_<fault>_<n>`` of the copy on Hugging Face, which RCAEval 1.8 recommends) with
``inject_time.txt`` (seconds since 1970), metrics (the first of ``METRIC_FILES`` that is there), and where recorded logs
and traces, as CSV or Parquet. The truth is in the folder's name; an index ``cases.parquet`` beside the folders says it
more plainly where it is there, and ``Overrides`` beat both.

* A column is ``<service>_<metric>``: see :func:`split_column`. Metrics with the same meaning as ours get our name
  (``cpu`` is ``cpu_usage``). The layout does not say units, so there are none. ``latency`` alone is the 90th
  percentile, as RCAEval itself takes it.
* The baseline is everything before the inject time, the fault everything after it: its end is not stated.
* The truth at metric level follows from the fault: ``FAULT_METRICS``.
* Candidates are the services of the columns, logs and spans. ``xservice`` in spans is ``x`` if the columns know that.
* The front end is where the spans show that traces begin; without spans that go from one service to another, the first
  of ``FRONT_ENDS`` that is there. ``Overrides`` beat both.
* Two columns of one metric: the first counts. Two rows of one time are one. A duration below 0 is 0, a status that is
  no whole number of 32 bits is none.
* A folder that ``rcarena export`` wrote has ``rcarena.json``, which says the rest: the case comes back as it was. See
  :mod:`tasks.datasets.rcaeval_sidecar`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks import metrics
from tasks.case import CaseRecord, Completeness, Service, SignalName, Stack, as_signal
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
    entry_service,
    metrics_table,
    most_common_root,
    stated_injection,
    topology_table,
    two_phases,
    versions,
)
from tasks.datasets.left_out import CaseLeftOut
from tasks.datasets.rcaeval_sidecar import SIDECAR_FILE, Sidecar
from tasks.datasets.tables import (
    GZIP_SUFFIX,
    Table,
    first_of,
    in_order,
    moment_ns,
    plausible,
    read_csv,
    read_parquet,
    read_series,
    visible_files,
)
from tasks.left_out import LeftOut
from tasks.metrics import Metric
from tasks.spans import service_calls

IMPORTER = "rcaeval 1"
METRIC_FILES = (
    *("data.csv", "simple_metrics.csv", "simple_data.csv", "metrics.csv"),
    *("metrics.parquet", "metrics.json"),
)
LOGS_FILE, TRACES_FILE, INJECT_TIME_FILE = "logs.csv", "traces.csv", "inject_time.txt"
LOG_FILES, TRACE_FILES = (LOGS_FILE, "logs.parquet"), (TRACES_FILE, "traces.parquet")
INDEX_FILE = "cases.parquet"
EXPECTED = (
    "expected folders <service>_<fault>/<n> or <benchmark>_<service>_<fault>_<n> with one of "
    f"{', '.join(METRIC_FILES)}, and {INJECT_TIME_FILE}"
)

LAYOUT_NAMES = {
    metrics.CPU_USAGE.name: "cpu",
    metrics.MEMORY_WORKING_SET.name: "mem",
    metrics.DISK_IO.name: "diskio",
    metrics.SOCKETS.name: "socket",
    metrics.REQUEST_RATE.name: "workload",
    metrics.ERROR_RATE.name: "error",
    metrics.LATENCY_P50.name: "latency-50",
    metrics.LATENCY_P90.name: "latency-90",
}
"""Metric as we call it -> as the layout does."""
METRICS = {
    **{theirs: ours for ours, theirs in LAYOUT_NAMES.items()},
    "memory": metrics.MEMORY_WORKING_SET.name,
    "latency": metrics.LATENCY_P90.name,
    "lat_50": metrics.LATENCY_P50.name,
    "lat_90": metrics.LATENCY_P90.name,
    "ctn_cpu": metrics.CPU_USAGE.name,
    "ctn_gpu": metrics.ACCELERATOR_UTILIZATION.name,
    "ctn_network": metrics.CTN_NETWORK.name,  # of arXiv 2603.02057: squared packets, and the rate of a gauge
    "ctn_memory": metrics.CTN_MEMORY.name,
    "node_cpu": metrics.NODE_CPU.name,
    "node_network": metrics.NODE_NETWORK.name,
    "node_memory": metrics.NODE_MEMORY.name,
    **{name.replace("_", "-"): name for name in metrics.METRICS},
}
"""Metric as the layout and its relatives call it -> as we do. Whatever else there is keeps its name."""
FAULT_METRICS: dict[str, tuple[Metric, ...]] = {
    "cpu": (metrics.CPU_USAGE,),
    "mem": (metrics.MEMORY_WORKING_SET,),
    "memory": (metrics.MEMORY_WORKING_SET, metrics.CTN_MEMORY),
    "disk": (metrics.DISK_IO,),
    "socket": (metrics.SOCKETS,),
    "delay": (metrics.LATENCY_P50, metrics.LATENCY_P90),
    "loss": (metrics.LATENCY_P50, metrics.LATENCY_P90),
    "network": (metrics.CTN_NETWORK,),
    "gpu": (metrics.ACCELERATOR_UTILIZATION,),
}
FRONT_ENDS = ("frontend", "front-end", "ts-ui-dashboard", "nginx-proxy")
"""Front ends of the systems in RCAEval and of the LLM stack, for cases whose spans do not show it."""

_NODE_NAME = "node_name"
_PANDAS_TIME = "time.1"
"""The name that pandas gives to a second column ``time``, which 50 cases of RE1 have."""
_LABELS = frozenset({"pod_name", "pod_ip", _NODE_NAME, "node_ip"})
_SUFFIXES = sorted({*METRICS, *metrics.METRICS, *_LABELS}, key=lambda name: (-len(name), name))
_SPAN_KEY = ["trace_id", "span_id"]
_BY_SPANS = "front end by spans"
"""Part of the ids of cases with spans, since they decide on the front end."""
_BENCHMARK = re.compile(r"^(?:re\d+|torai)-?(?:ob|ss|tt)_", re.IGNORECASE)
_NO_PARENT = re.compile(r"^(?:0+|root|null|none|nan)$", re.IGNORECASE)
_INT32 = np.iinfo(np.int32)


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
    """Find the case folders below ``directory``, itself included."""
    files = [file for name in METRIC_FILES for file in visible_files(directory, f"**/{name}*")]
    folders = sorted(
        {file.parent for file in files if file.name.removesuffix(GZIP_SUFFIX) in METRIC_FILES}, key=_folder_order
    )
    if not folders:
        raise DatasetError(f"{directory}: {EXPECTED}")
    if overrides.names_a_case and len(folders) > 1:
        raise DatasetError(f"{directory}: {len(folders)} cases; --service, --fault, --inject-time are for a single one")
    index = _read_index(directory)
    cases = tuple(RcaevalCase(folder, directory, overrides, index.rows.get(folder.name)) for folder in folders)
    absent = len(set(index.rows) - {folder.name for folder in folders})
    if absent:
        said = f"{INDEX_FILE}: {absent} of {len(index.rows)} cases are not here"
        return Found(cases, (*index.problems, said))
    return Found(cases, index.problems)


def _folder_order(folder: Path) -> tuple[str, int, str]:
    return (str(folder.parent), int(folder.name) if folder.name.isdecimal() else 0, folder.name)


@dataclass(frozen=True)
class _Indexed:
    """A row of the index: what it says of one case. ``inject``: ns since the epoch."""

    service: str
    fault: str
    inject: int | None


@dataclass(frozen=True)
class _Index:
    rows: Mapping[str, _Indexed]
    problems: tuple[str, ...] = ()


def _read_index(directory: Path) -> _Index:
    """Read the index of ``directory``, or of its parent: someone may import a single folder of a copy."""
    file = next((place / INDEX_FILE for place in (directory, directory.parent) if (place / INDEX_FILE).is_file()), None)
    inside = visible_files(directory, f"**/{INDEX_FILE}")
    file = file or (inside[0] if inside else None)
    if file is None:
        return _Index({})
    try:
        table = read_parquet(file)
        table.require("case", "root_cause_service", "fault")
    except DatasetError as error:
        return _Index({}, (f"{error}; going by the names of the folders",))
    injects: list[int | None] = [None] * table.rows
    if "inject_time" in table.names:
        times, known = table.times("inject_time")
        injects = [int(time) if sure else None for time, sure in zip(times, known, strict=True)]
    columns = (table.text(name) for name in ("case", "root_cause_service", "fault"))
    rows = zip(*columns, injects, strict=True)
    return _Index(
        {case: _Indexed(service, fault, at) for case, service, fault, at in rows if case and service and fault}
    )


@dataclass(frozen=True)
class _Truth:
    """``inject``: ns since the epoch."""

    service: str
    fault: str
    inject: int


@dataclass(frozen=True)
class _Metrics:
    """``times``: (rows,) int64 ns; ``values``: (rows, columns); ``nodes``: service -> node, where a column says it.

    ``services``: of all columns, also those without a value.
    """

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray
    nodes: Mapping[str, str]
    services: frozenset[str]


class RcaevalCase:
    """One case folder. ``indexed``: what the index of the data set says of it."""

    def __init__(self, folder: Path, root: Path, overrides: Overrides, indexed: _Indexed | None = None) -> None:
        self.folder = folder
        self._root = root
        self._overrides = overrides
        self._indexed = indexed

    @property
    def origin(self) -> str:
        return self.folder.relative_to(self._root).as_posix() if self.folder != self._root else self.folder.name

    def _file(self, names: Sequence[str]) -> Path | None:
        return first_of(self.folder, names)

    @property
    def _metrics_file(self) -> Path:
        file = self._file(METRIC_FILES)
        if file is None:
            raise DatasetError(f"{self.folder}: {EXPECTED}")
        return file

    @cached_property
    def _sidecar(self) -> Sidecar | None:
        return Sidecar.read(self.folder / SIDECAR_FILE)

    def case_id(self) -> str:
        parts: list[str | Path] = [IMPORTER, str(self._overrides.front_end)]
        if self._sidecar is None:
            parts += [self._truth.service, self._truth.fault, str(self._truth.inject)]
            if self._file(TRACE_FILES) is not None:
                parts.append(_BY_SPANS)
        for file in (self._metrics_file, self._file(LOG_FILES), self._file(TRACE_FILES), self._file([SIDECAR_FILE])):
            if file is not None:
                parts += [file.name, file]
        if self._sidecar is not None:
            parts += self._sidecar.table_files(self.folder)
        return Digest().case_id("rcaeval", parts)

    @cached_property
    def _truth(self) -> _Truth:
        folder = self.folder.resolve()
        label = folder.parent.name if folder.name.isdecimal() else re.sub(r"_\d+$", "", folder.name)
        label = _BENCHMARK.sub("", label)
        service, _, fault = label.rpartition("_")
        if self._indexed is not None:
            service, fault = self._indexed.service, self._indexed.fault
        service = self._overrides.service or service
        fault = self._overrides.fault or fault
        if not service or not fault:
            raise DatasetError("the folder's name is not <service>_<fault>; give --service and --fault")
        return _Truth(service, fault, self._inject_time())

    def _inject_time(self) -> int:
        file = self.folder / INJECT_TIME_FILE
        stated = self._overrides.inject_time
        if stated is not None:
            words = [repr(stated)]
        else:
            try:
                words = file.read_text(encoding="utf-8-sig").split()
            except OSError as error:
                if self._indexed is not None and self._indexed.inject is not None:
                    return self._indexed.inject
                raise DatasetError(f"{file}: cannot be read: {error.strerror}; or give --inject-time") from error
            except UnicodeDecodeError:
                words = []
        found = moment_ns(" ".join(words)) if words else None
        found = moment_ns(words[0]) if found is None and words else found
        if found is None:
            raise DatasetError(f"{file}: expected seconds since 1970, of 64 bits in ns")
        return found

    def read(self) -> Draft:
        return self._foreign() if self._sidecar is None else self._ours(self._sidecar)

    def _foreign(self) -> Draft:
        left_out = CaseLeftOut()
        truth, metrics = self._truth, _read_metrics(self._metrics_file, {}, left_out.of("metrics"))
        before, after = metrics.times < truth.inject, metrics.times >= truth.inject
        for name, found in (("before", before), ("after", after)):
            if not found.any():
                seconds = truth.inject / NANOSECONDS
                raise DatasetError(f"{self._metrics_file}: no row {name} the inject time {seconds:.0f}")
        measured = set(metrics.services)
        logs = _renamed(self._logs(left_out), lambda name: _alias(name, measured))
        spans = _renamed(self._spans(left_out), lambda name: _alias(name, measured))
        services = sorted({*measured, *logs["service"].unique(), *spans["service"].unique()})
        target = self._target(truth.service, measured, services)
        step = int(np.median(np.diff(metrics.times)))
        end = int(metrics.times.max()) + step
        cause = tuple(metric.name for metric in FAULT_METRICS.get(truth.fault, ()))
        known = {column.metric for column in metrics.columns if column.service == target}
        calls = service_calls(spans)
        edges = topology_table(calls, metrics.nodes) if calls or metrics.nodes else None
        tables = _tables(metrics, logs, spans, edges)
        front_end, why = self._front_end(services, spans)
        record = CaseRecord(
            case_id=self.case_id(),
            campaign="RCAEval",
            stack=Stack(
                backend="kubernetes",
                services=tuple(Service(name=name, role="service", node=metrics.nodes.get(name)) for name in services),
            ),
            front_end=front_end,
            phases=two_phases(int(metrics.times.min()), truth.inject, end),
            injections=(
                stated_injection(truth.fault, target, truth.inject, end, [name for name in cause if name in known]),
            ),
            completeness=completeness(tables, left_out.reasons(), left_out.reasons()),
            versions=versions(IMPORTER, {"origin": self.origin, **why}),
        )
        return Draft(record, tables, left_out.summary())

    def _target(self, stated: str, measured: set[str], services: Sequence[str]) -> str:
        """Return the service that the name of the folder means; the name of a benchmark may precede it."""
        for name in (stated, stated.partition("_")[2]):
            target = _alias(name, measured)
            if target in services:
                return target
        raise DatasetError(f"{self._metrics_file}: no column, log or span of the root cause '{stated}'")

    def _ours(self, sidecar: Sidecar) -> Draft:
        """Signal by signal the very table that was exported; from the CSV file if somebody changed that since."""
        left_out = CaseLeftOut()
        tables = {
            signal: sidecar.table(self.folder, signal)
            for signal in sidecar.tables
            if sidecar.is_as_written(self.folder, signal)
        }
        tables |= {signal: table for signal, table in self._from_csv(sidecar, left_out).items() if signal not in tables}
        declared = completeness(tables, left_out.reasons(), left_out.reasons({"requests": "the layout has none"}))
        kept: dict[SignalName, Completeness] = {
            signal: sidecar.record.completeness[signal]
            for signal in declared
            if signal in sidecar.record.completeness and not left_out.of(signal)
            if (signal in tables) == (sidecar.record.completeness[signal].status != "missing")
        }
        record = sidecar.record.model_copy(update={"case_id": self.case_id(), "completeness": {**declared, **kept}})
        return Draft(record, tables, left_out.summary())

    def _from_csv(self, sidecar: Sidecar, left_out: CaseLeftOut) -> dict[SignalName, pa.Table]:
        """Read the signals whose files were changed since the export from these files."""
        csv_of: dict[SignalName, str] = {"metrics": self._metrics_file.name, "logs": LOGS_FILE, "spans": TRACES_FILE}
        changed = {signal for signal in csv_of if not sidecar.is_as_written(self.folder, signal)}
        tables: dict[SignalName, pa.Table] = {}
        if "metrics" in changed:
            metrics = _read_metrics(self._metrics_file, sidecar.columns, left_out.of("metrics"))
            tables["metrics"] = metrics_table(metrics.times, metrics.columns, metrics.values)
        if "logs" in changed:
            logs = _renamed(self._logs(left_out), lambda name: sidecar.services.get(name, name))
            tables |= _events("logs", logs)
        if "spans" in changed:
            spans = _renamed(self._spans(left_out), lambda name: sidecar.services.get(name, name))
            tables |= _events("spans", spans)
        if sidecar.topology:
            tables["topology"] = edge_table(sidecar.topology)
        return tables

    def _logs(self, left_out: CaseLeftOut) -> pd.DataFrame:
        return self._read_events(LOG_FILES, _read_logs, left_out.of("logs"))

    def _spans(self, left_out: CaseLeftOut) -> pd.DataFrame:
        return self._read_events(TRACE_FILES, _read_spans, left_out.of("spans"))

    def _read_events(
        self, names: Sequence[str], read: Callable[[Table], pd.DataFrame], left_out: LeftOut
    ) -> pd.DataFrame:
        """Empty if there is no file, or, counted, none that can be used: the metrics are a case without it."""
        none = pd.DataFrame(columns=["service", "parent_span_id", *_SPAN_KEY])
        file = self._file(names)
        if file is None:
            return none
        try:
            return read(_read_table(file, left_out))
        except DatasetError as error:
            left_out.count(file, f"a file not used ({str(error).removeprefix(f'{file}: ')})")
            return none

    def _front_end(self, services: Sequence[str], spans: pd.DataFrame) -> tuple[str, dict[str, str]]:
        """Return the front end, with a note on the choice where names and spans disagree."""
        known = next((name for name in FRONT_ENDS if name in services), None)
        by_spans = entry_service(spans, FRONT_ENDS)
        front_end = self._overrides.front_end or by_spans or known or most_common_root(spans)
        if front_end is None or front_end not in services:
            raise DatasetError(
                f"{self.folder}: cannot tell the front end; give --front-end (one of {', '.join(services)})"
            )
        if front_end == by_spans and known not in (None, by_spans):
            return front_end, {
                "front end": f"{by_spans}, where traces begin, and not {known}; --front-end changes that"
            }
        return front_end, {}


def _read_table(file: Path, left_out: LeftOut) -> Table:
    name = file.name.removesuffix(GZIP_SUFFIX)
    if name.endswith(".parquet"):
        return read_parquet(file, left_out)
    return read_series(file, left_out) if name.endswith(".json") else read_csv(file, left_out)


def _tables(
    metrics: _Metrics, logs: pd.DataFrame, spans: pd.DataFrame, topology: pa.Table | None
) -> dict[SignalName, pa.Table]:
    tables: dict[SignalName, pa.Table] = {"metrics": metrics_table(metrics.times, metrics.columns, metrics.values)}
    tables |= _events("spans", spans) | _events("logs", logs)
    if topology is not None:
        tables["topology"] = topology
    return tables


def _events(signal: SignalName, events: pd.DataFrame) -> dict[SignalName, pa.Table]:
    """Return the table of ``events`` by its signal; empty if there are none."""
    return {} if events.empty else {signal: as_signal(signal, events)}


def _renamed(events: pd.DataFrame, name_of: Callable[[str], str]) -> pd.DataFrame:
    return events.assign(service=events["service"].map(name_of))


def _alias(service: str, measured: set[str]) -> str:
    """Return the name that ``service`` has among ``measured``.

    The spans of Online Boutique say ``frontendservice`` where its metrics say ``frontend``."""
    others = (service, service.removesuffix("service"), f"{service}service")
    return next((name for name in others if name in measured), service)


def _read_metrics(file: Path, known: Mapping[str, Column], left_out: LeftOut) -> _Metrics:
    table = _read_table(file, left_out)
    table.require("time")
    if table.rows < 2:
        raise DatasetError(f"{file}: {table.rows} rows of metrics; expected two or more")
    columns: dict[tuple[str, str], Column] = {}
    values: list[np.ndarray] = []
    services: set[str] = set()
    nodes: dict[str, str] = {}
    for position, name in enumerate(table.names):
        parts = split_column(name)
        if name == "time":
            left_out.count(file, "a column 'time' too many", int(position != table.names.index("time")))
            continue
        if parts is None and name not in known:
            left_out.count(file, "a column that is no <service>_<metric>", int(name != _PANDAS_TIME))
            continue
        if parts is not None and parts[1] in _LABELS:
            node = next((text for text in table.text(position) if text), None)
            if parts[1] == _NODE_NAME and node:
                nodes[parts[0]] = str(node)
            continue
        column = known.get(name) or _column(name, columns)
        services.add(column.service)
        if (column.service, column.metric) in columns:
            left_out.count(file, "a column of a metric that was there already")
            continue
        found = table.numbers_if_any(position)
        if found is not None:
            columns[column.service, column.metric] = column
            values.append(found)
    if not columns:
        raise DatasetError(f"{file}: no column <service>_<metric>")
    moments, moments_known = table.times("time")
    usable = plausible(moments, moments_known)
    if not usable.any():
        raise DatasetError(f"{file}: column 'time' must hold seconds since 1970")
    times, cells = in_order(moments, np.column_stack(values), left_out, file, usable)
    if len(times) < 2:
        raise DatasetError(f"{file}: {len(times)} rows with a time of their own; expected two or more")
    return _Metrics(times, tuple(columns.values()), cells, nodes, frozenset(services))


def _column(name: str, taken: Collection[tuple[str, str]]) -> Column:
    service, metric = split_column(name) or (name, name)
    ours = METRICS.get(metric, metric)
    return Column(service, metric if (service, ours) in taken else ours, None, metric)


def _moments(table: Table, *columns: str) -> tuple[np.ndarray, np.ndarray]:
    """ns since the epoch, of each row by the first of ``columns`` that says it, and where one does."""
    times, known = np.zeros(table.rows, dtype=np.int64), np.zeros(table.rows, dtype=bool)
    for column in columns:
        if column in table.names and not known.all():
            other, other_known = table.times(column)
            usable = plausible(other, other_known) & ~known
            times, known = np.where(usable, other, times), known | usable
    return times, known


def _utc(times: np.ndarray) -> pd.Series:
    return pd.Series(pd.to_datetime(times, unit="ns", utc=True))


def _read_logs(table: Table) -> pd.DataFrame:
    table.require("timestamp" if "timestamp" in table.names else "time", "container_name", "message")
    times, known = _moments(table, "timestamp", "time")
    frame = pd.DataFrame(
        {
            "time": _utc(times),
            "service": table.text("container_name"),
            "message": pd.Series(table.text("message"), dtype=object).fillna(""),
        }
    )
    for name in ("level", "template_id"):
        if name in table.names:
            frame[name] = table.text(name)
    kept = known & frame["service"].notna().to_numpy()
    table.left_out.count(table.file, "a line without a container or a usable time", int((~kept).sum()))
    return frame[kept].sort_values("time", kind="stable")


def _read_spans(table: Table) -> pd.DataFrame:
    start = "startTime" if "startTime" in table.names else "startTimeMillis"
    table.require("traceID", "spanID", "serviceName", "operationName", start, "duration")
    operation = pd.Series(table.text("operationName"), dtype=object)
    if "methodName" in table.names:
        operation = pd.Series(table.text("methodName"), dtype=object).fillna(operation)
    times, known = _moments(table, "startTime", "startTimeMillis")
    duration = table.micros("duration")
    negative = duration < 0
    frame = pd.DataFrame(
        {
            "trace_id": table.text("traceID"),
            "span_id": table.text("spanID"),
            "parent_span_id": table.text("parentSpanID") if "parentSpanID" in table.names else None,
            "service": table.text("serviceName"),
            "operation": operation.fillna(""),
            "start": _utc(times),
            "duration": np.where(negative, 0.0, duration),
        }
    )
    parent = frame["parent_span_id"].astype(object)
    frame["parent_span_id"] = parent.mask(parent.str.match(_NO_PARENT).fillna(False).astype(bool), None)
    if "attributes" in table.names:
        frame["attributes"] = table.text("attributes")
    if "statusCode" in table.names:
        status = table.integers("statusCode", _INT32.min, _INT32.max)
        frame["status_code"] = pd.Series(status).astype("Int32")
    kept = known & frame[[*_SPAN_KEY, "service"]].notna().all(axis=1).to_numpy()
    table.left_out.count(table.file, "a span without ids, a service or a usable time", int((~kept).sum()))
    table.left_out.count(table.file, "a span of a negative duration, taken as 0 s", int((kept & negative).sum()))
    frame = frame[kept]
    twice = frame.duplicated(_SPAN_KEY)
    table.left_out.count(table.file, "a span that was there already", int(twice.sum()))
    return frame[~twice].sort_values("start", kind="stable")
