"""The files of Nezha: metrics of a day, spans and logs of a minute, placement. What they mean: ``nezha``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from tasks.datasets.dataset import NANOSECONDS, Column, DatasetError
from tasks.datasets.tables import Table, read_csv

MINUTE = 60 * NANOSECONDS
SPAN_KEY = ["trace_id", "span_id"]
_MAX_ROUNDS = 3 * 24 * 60
_SAME_LATENCY = 0.9
"""Share of the day's rows in which the front end's latency and a pod's must agree."""
_REPLICA_SUFFIX = re.compile(r"-[0-9a-f]{6,10}-[a-z0-9]{5}$")
_LOG_PREFIX = re.compile(r"\d\d:\d\d:\d\d[.,]\d+\s+([A-Z]+)\s+")
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


@dataclass(frozen=True)
class DayMetrics:
    """``times``: (rounds,) int64 ns, one per minute. ``values``: (rounds, columns), in our units.

    ``names``: pod -> what it is called. ``front_end``: None if ``front_service.csv`` does not tell.
    """

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray
    names: Mapping[str, str]
    front_end: str | None


def service_of(pod: str) -> str:
    """The pod's name without the parts that Kubernetes appends."""
    return _REPLICA_SUFFIX.sub("", pod)


def read_metrics(files: Sequence[Path], front_service_file: Path) -> DayMetrics:
    """The metrics of one day, each round of samples at one time: that of its first sample."""
    tables = [read_csv(file) for file in files]
    for table in tables:
        table.require("Time", "PodName")
        if not table.rows:
            raise DatasetError(f"{table.file}: no row of metrics")
    pods = [str(table.text("PodName")[0]) for table in tables]
    names = _service_names(pods)
    front = [read_csv(front_service_file)] if front_service_file.is_file() else []
    moments = [_round_times(table) for table in (*tables, *front)]
    if not all(len(times) for times in moments):
        raise DatasetError(f"{front_service_file}: no row of metrics")
    start = min(int(times.min()) for times in moments)
    rounds = [np.rint((times - start) / MINUTE).astype(int) for times in moments]
    minutes = 1 + max(int(each.max()) for each in rounds)
    if minutes > _MAX_ROUNDS:
        raise DatasetError(f"{files[0].parent}: samples over {minutes} minutes; expected those of one day")
    series: list[tuple[Column, np.ndarray]] = []
    for table, pod, at in zip(tables, pods, rounds, strict=False):
        series += _series(table, at, minutes, names[pod], _METRICS)
    front_end = _equal_latency(front[0], rounds[-1], series) if front else None
    if front_end is not None:
        series += _series(front[0], rounds[-1], minutes, front_end, _FRONT_METRICS, only_known=True)
    return DayMetrics(
        times=start + np.arange(minutes) * MINUTE,
        columns=tuple(column for column, _ in series),
        values=np.column_stack([values for _, values in series]),
        names=names,
        front_end=front_end,
    )


def _series(
    table: Table,
    at: np.ndarray,
    rounds: int,
    service: str,
    known: Mapping[str, tuple[str, str | None, float]],
    *,
    only_known: bool = False,
) -> list[tuple[Column, np.ndarray]]:
    """The metrics of one file, put on the grid: its rows at the positions ``at``."""
    series = []
    for name in table.names:
        if name in _NOT_METRICS or (only_known and name not in known):
            continue
        found = table.numbers(name)
        if name in _SILENT_IF_ZERO and not (found > 0).any():
            continue
        metric, unit, factor = known.get(name, (_clean(name), None, 1.0))
        values = np.full(rounds, np.nan)
        values[at] = found * factor
        series.append((Column(service, metric, unit, name), values))
    return series


def _clean(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _equal_latency(front: Table, at: np.ndarray, series: Sequence[tuple[Column, np.ndarray]]) -> str | None:
    """The service whose latency is that of the front end."""
    if "LatencyP90(s)" not in front.names:
        return None
    latency = front.numbers("LatencyP90(s)")
    shares = {
        column.service: float(np.isclose(values[at], latency).mean())
        for column, values in series
        if column.metric == "latency_p90"
    }
    best = max(shares, key=lambda service: shares[service], default=None)
    return best if best is not None and shares[best] >= _SAME_LATENCY else None


def _service_names(pods: Sequence[str]) -> dict[str, str]:
    shortened = {pod: service_of(pod) for pod in pods}
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


def read_spans(file: Path | None) -> pd.DataFrame:
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


def read_logs(file: Path | None) -> pd.DataFrame:
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


def span_table(spans: pd.DataFrame) -> pd.DataFrame:
    columns = ["trace_id", "span_id", "parent_span_id", "service", "operation", "duration"]
    start = pd.to_datetime(spans["time"].astype("int64"), unit="ns", utc=True)
    return spans[columns].fillna({"operation": ""}).assign(start=start).sort_values(["start", "span_id"])


def log_table(logs: pd.DataFrame) -> pd.DataFrame:
    time = pd.to_datetime(logs["time"].astype("int64"), unit="ns", utc=True)
    return logs[["service", "level", "message"]].assign(time=time).sort_values(["time", "service", "message"])


def log_nodes(logs: pd.DataFrame) -> dict[str, str]:
    """Where the logs say that each service runs; services seen on several nodes are left out."""
    seen = logs[["service", "node"]].dropna().drop_duplicates()
    alone = seen[~seen["service"].duplicated(keep=False)]
    return {str(service): str(node) for service, node in alone.itertuples(index=False)}


def read_dependencies(file: Path, services: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Calls and placement of ``dependency.csv``; clients that are no candidate are left out."""
    if not file.is_file():
        return [], {}
    table = read_csv(file)
    table.require("Source", "Target")
    pairs = [(str(a), str(b)) for a, b in zip(table.text("Source"), table.text("Target"), strict=True)]
    calls = [(source, target) for source, target in pairs if source in services and target in services]
    nodes = {source: target for source, target in pairs if source in services and target not in services}
    return calls, nodes
