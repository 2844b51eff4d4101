"""Nezha: Yu et al., "Nezha: Interpretable Fine-Grained Root Causes Analysis for Microservices on Multi-modal
Observability Data", ESEC/FSE 2023.

A *day* is ``rca_data/<date>`` with ``<date>-fault_list.json`` and the folders ``metric`` (one file per pod for the
whole day, a row per minute), ``trace`` and ``log`` (one file per minute, three for each fault).
``construct_data/<date>`` has a fault-free minute of traces and logs, and ``construct_data/root_cause_*.json`` the truth
at metric or log level.

* ``inject_time`` is UTC. ``inject_timestamp`` (at times a minute off) and ``TimeStamp`` (200,000,000 s off in one file)
  are not used.
* A fault counts for ``FAULT_S``, about what the trace and log files cover; when it really ended is not stated.
* Baseline of the metrics: every earlier minute of the day that is ``DISTURBED_S`` or more after any injection. Effects
  are seen for up to six and a half minutes; injections are seven or more apart.
* Baseline of spans and logs: what the minute files hold from before the injection, and before that the fault-free
  minute, moved to end where they begin. How far is in ``versions``.
* Metrics are sampled in rounds that take a few seconds; each round is put on an exact grid, at its first sample.
* A pod is called by its service where the service has one pod, else by its own name.
* The front end is the service whose 90th percentile is the one of ``front_service.csv``. If it has no spans (Train
  Ticket's dashboard) it is taken to call the service in which the traces begin.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
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
    metrics_table,
    most_common_root,
    span_calls,
    stated_injection,
    topology_table,
    two_phases,
    versions,
)
from tasks.datasets.tables import Table, read_csv, read_json

IMPORTER = "nezha 1"
FAULT_S = 180
DISTURBED_S = 420
MINUTE_FILES = 3
_BASELINE = f"metrics: the minutes before the injection that are {DISTURBED_S} s or more after any other"
_SHORT = "recorded for three minutes around the injection, and for one fault-free minute"
EXPECTED = "expected the layout of Nezha: rca_data/<date>/<date>-fault_list.json with metric/ beside it"

_MINUTE = 60 * NANOSECONDS
_MAX_ROUNDS = 3 * 24 * 60
_SAME_LATENCY = 0.9
"""Share of the day's rows in which the front end's latency and a pod's must agree."""
_REPLICA_SUFFIX = re.compile(r"-[0-9a-f]{6,10}-[a-z0-9]{5}$")
_LOG_PREFIX = re.compile(r"\d\d:\d\d:\d\d[.,]\d+\s+([A-Z]+)\s+")
_SPAN_KEY = ["trace_id", "span_id"]
_NOT_METRICS = frozenset({"Time", "TimeStamp", "PodName", "ServiceName"})

_METRICS: dict[str, tuple[str, str | None, float]] = {
    "CpuUsage(m)": ("cpu_usage", "cores", 1e-3),
    "CpuUsageRate(%)": ("cpu_usage_ratio", "ratio", 1e-2),
    "MemoryUsage(Mi)": ("memory_working_set", "bytes", 2.0**20),
    "MemoryUsageRate(%)": ("memory_usage_ratio", "ratio", 1e-2),
    "NetworkReceiveBytes": ("network_receive", "bytes/s", 1.0),
    "NetworkTransmitBytes": ("network_transmit", "bytes/s", 1.0),
    "SyscallRead": ("syscall_read", None, 1.0),
    "SyscallWrite": ("syscall_write", None, 1.0),
    "PodWorkload(Ops)": ("request_rate", "requests/s", 1.0),
    "PodSuccessRate(%)": ("success_ratio", "ratio", 1e-2),
    "NodeCpuUsageRate(%)": ("node_cpu_usage_ratio", "ratio", 1e-2),
    "NodeMemoryUsageRate(%)": ("node_memory_usage_ratio", "ratio", 1e-2),
    "NodeNetworkReceiveBytes": ("node_network_receive", "bytes/s", 1.0),
    **{f"PodServerLatencyP{q}(s)": (f"latency_p{q}", "s", 1.0) for q in (90, 95, 99)},
    **{f"PodClientLatencyP{q}(s)": (f"client_latency_p{q}", "s", 1.0) for q in (90, 95, 99)},
}
_FRONT_METRICS: dict[str, tuple[str, str | None, float]] = {
    "LatencyP50(s)": ("latency_p50", "s", 1.0),
    "SuccessRate(%)": ("success_ratio", "ratio", 1e-2),
}
_SILENT_IF_ZERO = frozenset({"PodSuccessRate(%)", "SuccessRate(%)"})
"""Always 0 where the collector could not tell: then it says nothing."""
_STATED_METRICS = {"CpuUsageRate(%)": ("cpu_usage", "cpu_usage_ratio")}
"""Truth at metric level. ``NetworkP90(ms)``, the other one, is not in the files: Nezha computes it from spans."""


def find(directory: Path, overrides: Overrides) -> Found:
    """The faults of every day below ``directory``."""
    lists = sorted(directory.rglob("*fault_list.json"))
    if not lists:
        raise DatasetError(f"{directory}: {EXPECTED}")
    cases: list[NezhaFault] = []
    for fault_list in lists:
        day = _Day(fault_list, overrides.front_end)
        cases += [NezhaFault(day, entry) for entry in day.entries]
    return Found(tuple(cases))


@dataclass(frozen=True)
class _Recording:
    """``times``: (rounds,) int64 ns, one per minute; ``values``: (rounds, columns), in our units."""

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray


class _Day:
    """What the faults of one day share; read once."""

    def __init__(self, fault_list: Path, front_end: str | None) -> None:
        beside, dated = fault_list.parent, fault_list.parent / fault_list.name.split("-fault_list")[0]
        self.path = dated if (dated / "metric").is_dir() else beside
        self.fault_list = fault_list
        self.digest = Digest()
        self._front_end = front_end

    @cached_property
    def entries(self) -> tuple[Mapping[str, Any], ...]:
        document = read_json(self.fault_list)
        groups = document.values() if isinstance(document, dict) else ()
        entries = [entry for group in groups if isinstance(group, list) for entry in group]
        if not entries or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f'{self.fault_list}: expected {{"<hour>": [{{"inject_time": …}}, …]}}')
        return tuple(entries)

    @cached_property
    def injections(self) -> np.ndarray:
        """(faults,) int64 ns, sorted; what cannot be read is left out."""
        known = [parsed for parsed in (_utc(entry.get("inject_time")) for entry in self.entries) if parsed is not None]
        return np.sort(np.array(known, dtype=np.int64))

    @property
    def metric_files(self) -> list[Path]:
        files = sorted((self.path / "metric").glob("*_metric.csv"))
        if not files:
            raise DatasetError(f"{self.path / 'metric'}: no <pod>_metric.csv")
        return files

    @property
    def front_service_file(self) -> Path:
        return self.path / "metric" / "front_service.csv"

    @property
    def dependency_file(self) -> Path:
        return self.path / "metric" / "dependency.csv"

    @cached_property
    def construct(self) -> Path | None:
        return next((p / "construct_data" for p in self.path.parents if (p / "construct_data").is_dir()), None)

    @property
    def truth_files(self) -> list[Path]:
        return sorted(self.construct.glob("root_cause_*.json")) if self.construct else []

    def metric_level_truth(self, service: str, kind: str) -> str:
        """As the data set words it; empty if it does not say."""
        for file in self.truth_files:
            document = read_json(file)
            stated = document.get(service) if isinstance(document, dict) else None
            if isinstance(stated, dict) and kind in stated:
                return str(stated[kind])
        return ""

    def normal_files(self, kind: str) -> list[Path]:
        """Fault-free minutes of ``trace`` or ``log``, in order of time."""
        folder = self.construct / self.path.name / kind if self.construct else None
        return sorted(folder.glob(f"*_{kind}.csv")) if folder is not None else []

    @cached_property
    def normal_minutes(self) -> dict[str, list[tuple[Path, pd.DataFrame]]]:
        """Per kind the content of ``normal_files``."""
        readers = {"trace": _read_spans, "log": _read_logs}
        return {kind: [(file, read(file)) for file in self.normal_files(kind)] for kind, read in readers.items()}

    @cached_property
    def services(self) -> dict[str, str]:
        """Pod -> what it is called."""
        return self._read[1]

    @cached_property
    def recording(self) -> _Recording:
        return self._read[0]

    @cached_property
    def front_end(self) -> str | None:
        if self._front_end is not None:
            return self._front_end
        return self._read[2]

    @cached_property
    def _read(self) -> tuple[_Recording, dict[str, str], str | None]:
        tables = [read_csv(file) for file in self.metric_files]
        for table in tables:
            table.require("Time", "PodName")
            if not table.rows:
                raise DatasetError(f"{table.file}: no row of metrics")
        pods = [str(table.text("PodName")[0]) for table in tables]
        names = _service_names(pods)
        front = read_csv(self.front_service_file) if self.front_service_file.is_file() else None
        moments = [_round_times(table) for table in (*tables, *([front] if front else []))]
        start = min(int(times.min()) for times in moments)
        rounds = [np.rint((times - start) / _MINUTE).astype(int) for times in moments]
        minutes = 1 + max(int(each.max()) for each in rounds)
        if minutes > _MAX_ROUNDS:
            raise DatasetError(f"{self.path / 'metric'}: samples over {minutes} minutes; expected those of one day")
        grid = np.arange(minutes)
        columns: list[Column] = []
        values: list[np.ndarray] = []
        for table, pod, at in zip(tables, pods, rounds, strict=False):
            _add(table, at, names[pod], _METRICS, len(grid), columns, values)
        front_end = None
        if front is not None:
            front_end = _equal_latency(front, rounds[-1], columns, values)
            if front_end is not None:
                _add(front, rounds[-1], front_end, _FRONT_METRICS, len(grid), columns, values, only_known=True)
        return _Recording(start + grid * _MINUTE, tuple(columns), np.column_stack(values)), names, front_end


def _add(
    table: Table,
    at: np.ndarray,
    service: str,
    known: Mapping[str, tuple[str, str | None, float]],
    rounds: int,
    columns: list[Column],
    values: list[np.ndarray],
    *,
    only_known: bool = False,
) -> None:
    """Append the metrics of one file, put on the grid."""
    for name in table.names:
        if name in _NOT_METRICS or (only_known and name not in known):
            continue
        found = table.numbers(name)
        if name in _SILENT_IF_ZERO and not (found > 0).any():
            continue
        metric, unit, factor = known.get(name, (_clean(name), None, 1.0))
        series = np.full(rounds, np.nan)
        series[at] = found * factor
        columns.append(Column(service, metric, unit, name))
        values.append(series)


def _clean(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _equal_latency(front: Table, at: np.ndarray, columns: Sequence[Column], values: Sequence[np.ndarray]) -> str | None:
    """The service whose latency is that of the front end."""
    if "LatencyP90(s)" not in front.names:
        return None
    latency = front.numbers("LatencyP90(s)")
    shares = {
        column.service: float(np.isclose(series[at], latency).mean())
        for column, series in zip(columns, values, strict=True)
        if column.metric == "latency_p90"
    }
    best = max(shares, key=lambda service: shares[service], default=None)
    return best if best is not None and shares[best] >= _SAME_LATENCY else None


def _service_names(pods: Sequence[str]) -> dict[str, str]:
    shortened = {pod: _REPLICA_SUFFIX.sub("", pod) for pod in pods}
    pods_of = Counter(shortened.values())
    return {pod: service if pods_of[service] == 1 else pod for pod, service in shortened.items()}


def _round_times(table: Table) -> np.ndarray:
    """``2022-08-22 03:51:19.607158889 +0000 UTC m=+0.113112869`` to the second, as ns since the epoch."""
    table.require("Time")
    try:
        seconds = np.array([str(text)[:19] for text in table.text("Time")], dtype="datetime64[s]")
    except ValueError:
        raise DatasetError(f"{table.file}: column 'Time' must hold <date> <time> in UTC") from None
    return seconds.astype(np.int64) * NANOSECONDS


def _utc(text: object) -> int | None:
    try:
        parsed = datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(parsed.timestamp()) * NANOSECONDS


@dataclass(frozen=True)
class NezhaFault:
    """One entry of a fault list."""

    day: _Day
    entry: Mapping[str, Any]

    @property
    def origin(self) -> str:
        return f"{self.day.path.name} {self.entry.get('inject_time', 'entry without inject_time')}"

    def case_id(self) -> str:
        day = self.day
        files = [*day.metric_files, day.fault_list, *day.truth_files]
        files += [file for file in (day.front_service_file, day.dependency_file) if file.is_file()]
        files += [file for kind in ("trace", "log") for file in (*day.normal_files(kind), *self._minute_files(kind))]
        entry = json.dumps(self.entry, sort_keys=True)
        return day.digest.case_id("nezha", [IMPORTER, entry, str(day.front_end), *files])

    def _minute_files(self, kind: str) -> list[Path]:
        first = datetime.fromtimestamp(self._inject // NANOSECONDS, UTC)
        labels = [(first + timedelta(minutes=i)).strftime("%H_%M") for i in range(MINUTE_FILES)]
        files = [self.day.path / kind / f"{label}_{kind}.csv" for label in labels]
        return [file for file in files if file.is_file()]

    @property
    def _inject(self) -> int:
        inject = _utc(self.entry.get("inject_time"))
        if inject is None:
            raise DatasetError(
                f"{self.day.fault_list}: inject_time {self.entry.get('inject_time')!r} must be <date> <time>"
            )
        return inject

    def read(self) -> Draft:
        day, inject = self.day, self._inject
        end = inject + FAULT_S * NANOSECONDS
        pod, kind = self.entry.get("inject_pod"), self.entry.get("inject_type")
        if not isinstance(pod, str) or not isinstance(kind, str):
            raise DatasetError(f"{day.fault_list}: {self.origin}: expected inject_pod and inject_type")
        recording = day.recording
        rows = self._rows(recording.times, inject, end)
        tables: dict[SignalName, pa.Table] = {
            "metrics": metrics_table(recording.times[rows], recording.columns, recording.values[rows])
        }
        spans, spans_moved = self._events("trace", inject, end)
        logs, logs_moved = self._events("log", inject, end)
        target = self._called(pod)
        services = sorted({*day.services.values(), *spans["service"].unique(), *logs["service"].unique()})
        if target not in services:
            raise DatasetError(f"{day.fault_list}: inject_pod '{pod}' has no metrics, spans or logs")
        front_end = day.front_end or most_common_root(spans)
        if front_end is None or front_end not in services:
            raise DatasetError(
                f"{day.path}: cannot tell the front end; give --front-end (one of {', '.join(services)})"
            )
        moved = {"spans": spans_moved, "logs": logs_moved}
        notes = {
            f"fault-free {signal}": f"moved by {by // NANOSECONDS} s to end where the others begin"
            for signal, by in moved.items()
            if by
        }
        calls, nodes = _dependencies(day.dependency_file, services)
        nodes |= _nodes(logs)
        calls += span_calls(spans)
        behind = most_common_root(spans)
        if behind is not None and not spans["service"].eq(front_end).any():
            calls.append((front_end, behind))
            notes["topology"] = f"{front_end} is taken to call {behind}, in which the traces begin: it has no spans"
        if not spans.empty:
            tables["spans"] = as_signal("spans", _span_table(spans))
        if not logs.empty:
            tables["logs"] = as_signal("logs", _log_table(logs))
        if calls or nodes:
            tables["topology"] = topology_table(calls, nodes)
        stated = day.metric_level_truth(_REPLICA_SUFFIX.sub("", pod), kind)
        record = CaseRecord(
            case_id=self.case_id(),
            campaign=f"Nezha {day.path.name}",
            stack=Stack(
                backend="kubernetes",
                services=tuple(Service(name=name, role="service", node=nodes.get(name)) for name in services),
            ),
            front_end=front_end,
            phases=two_phases(int(recording.times[rows][0]), inject, end),
            injections=(
                stated_injection(
                    kind, target, inject, end, _STATED_METRICS.get(stated, ()), pod=pod, stated_root_cause=stated
                ),
            ),
            completeness=completeness(tables, {"spans": _SHORT, "logs": _SHORT}),
            versions=versions(IMPORTER, {"origin": self.origin, "baseline": _BASELINE, **notes}),
        )
        return Draft(record, tables)

    def _rows(self, times: np.ndarray, inject: int, end: int) -> np.ndarray:
        """Positions of the baseline and of the fault."""
        last = np.searchsorted(self.day.injections, times, side="right") - 1
        since = np.where(last >= 0, times - self.day.injections[np.maximum(last, 0)], np.iinfo(np.int64).max)
        before = (times < inject) & (since >= DISTURBED_S * NANOSECONDS)
        during = (times >= inject) & (times < end)
        for name, found in (("before", before), ("after", during)):
            if not found.any():
                raise DatasetError(
                    f"{self.day.path / 'metric'}: no row {name} the injection at {self.entry['inject_time']}"
                )
        return np.flatnonzero(before | during)

    def _called(self, pod: str) -> str:
        return self.day.services.get(pod) or _REPLICA_SUFFIX.sub("", pod)

    def _events(self, kind: str, inject: int, end: int) -> tuple[pd.DataFrame, int]:
        """Spans (``trace``) or lines (``log``), and by how many ns the fault-free ones among them were moved."""
        read = _read_spans if kind == "trace" else _read_logs
        files, normal = self._minute_files(kind), self.day.normal_minutes[kind]
        if not files:
            return read(None), 0
        opening = _label_ns(files[0], inject)
        frames = [read(file) for file in files]
        moved, begin = 0, opening
        for i, (file, minute) in enumerate(reversed(normal)):
            moved = opening - (i + 1) * _MINUTE - _label_ns(file, inject)
            begin = opening - (i + 1) * _MINUTE
            frames.append(minute.assign(time=minute["time"] + moved))
        # A trace that lasts into the next minute is in both files.
        events = pd.concat(frames, ignore_index=True).drop_duplicates(_SPAN_KEY if kind == "trace" else None)
        # A file's minute ends some seconds before or after the full minute; a few lines are from another day.
        events = events[(events["time"] >= begin - 2 * _MINUTE) & (events["time"] < end)]
        return events.assign(service=events["pod"].map(self._called)), moved


def _label_ns(file: Path, near: int) -> int:
    """The minute that the file is named after, on the day of ``near``."""
    try:
        labelled = datetime.strptime("_".join(file.name.split("_")[:2]), "%H_%M")
    except ValueError:
        raise DatasetError(f"{file}: expected <hour>_<minute>_<kind>.csv") from None
    midnight = near - near % (24 * 60 * _MINUTE)
    return midnight + (labelled.hour * 60 + labelled.minute) * _MINUTE


def _read_spans(file: Path | None) -> pd.DataFrame:
    if file is None:
        return pd.DataFrame(
            columns=["time", "pod", "service", "trace_id", "span_id", "parent_span_id", "operation", "duration"]
        )
    table = read_csv(file)
    table.require("TraceID", "SpanID", "ParentID", "PodName", "OperationName", "StartTimeUnixNano", "EndTimeUnixNano")
    start, end = table.integers("StartTimeUnixNano"), table.integers("EndTimeUnixNano")
    parent = pd.Series(table.text("ParentID"), dtype=object)
    frame = pd.DataFrame(
        {
            "time": start,
            "pod": table.text("PodName"),
            "trace_id": table.text("TraceID"),
            "span_id": table.text("SpanID"),
            "parent_span_id": parent.mask(parent == "root", None),
            "operation": table.text("OperationName"),
            "duration": np.maximum(end - start, 0) / NANOSECONDS,
        }
    )
    return frame.dropna(subset=["pod", "trace_id", "span_id"])


def _read_logs(file: Path | None) -> pd.DataFrame:
    if file is None:
        return pd.DataFrame(columns=["time", "service", "node"])
    table = read_csv(file)
    table.require("TimeUnixNano", "Node", "PodName", "Log")
    levels, messages = _parsed_lines(table.text("Log"))
    frame = pd.DataFrame(
        {
            "time": table.integers("TimeUnixNano"),
            "pod": table.text("PodName"),
            "node": table.text("Node"),
            "level": levels,
            "message": messages,
        }
    )
    return frame.dropna(subset=["pod"])


def _parsed_lines(lines: np.ndarray) -> tuple[list[str | None], list[str]]:
    """Level and message of each line; a line is Docker's JSON around ``<clock> <LEVEL> <message>``, or anything."""
    levels: list[str | None] = []
    messages: list[str] = []
    for line in lines:
        text = _unwrapped(line or "")
        prefix = _LOG_PREFIX.match(text)
        levels.append(prefix.group(1).lower() if prefix else None)
        messages.append(text[prefix.end() :] if prefix else text)
    return levels, messages


def _unwrapped(line: str) -> str:
    if line.startswith("{"):
        try:
            document = orjson.loads(line)
        except ValueError:
            return line
        if isinstance(document, dict) and isinstance(document.get("log"), str):
            line = document["log"]
    return line.rstrip()


def _span_table(spans: pd.DataFrame) -> pd.DataFrame:
    columns = ["trace_id", "span_id", "parent_span_id", "service", "operation", "duration"]
    start = pd.to_datetime(spans["time"].astype("int64"), unit="ns", utc=True)
    return spans[columns].fillna({"operation": ""}).assign(start=start).sort_values(["start", "span_id"])


def _log_table(logs: pd.DataFrame) -> pd.DataFrame:
    time = pd.to_datetime(logs["time"].astype("int64"), unit="ns", utc=True)
    return logs[["service", "level", "message"]].assign(time=time).sort_values(["time", "service", "message"])


def _nodes(logs: pd.DataFrame) -> dict[str, str]:
    """Where the logs say that each service runs; services seen on several nodes are left out."""
    seen = logs[["service", "node"]].dropna().drop_duplicates()
    alone = seen[~seen["service"].duplicated(keep=False)]
    return {str(service): str(node) for service, node in alone.itertuples(index=False)}


def _dependencies(file: Path, services: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Calls and placement of ``dependency.csv``; clients that are no candidate are left out."""
    if not file.is_file():
        return [], {}
    table = read_csv(file)
    table.require("Source", "Target")
    pairs = [(str(a), str(b)) for a, b in zip(table.text("Source"), table.text("Target"), strict=True)]
    calls = [(source, target) for source, target in pairs if source in services and target in services]
    nodes = {source: target for source, target in pairs if source in services and target not in services}
    return calls, nodes
