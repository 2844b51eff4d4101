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

from tasks import metrics
from tasks.datasets.dataset import NANOSECONDS, Column, DatasetError
from tasks.datasets.tables import Table, read_csv
from tasks.left_out import LeftOut
from tasks.metrics import Metric

MINUTE = 60 * NANOSECONDS
SPAN_KEY = ["trace_id", "span_id"]
_DAY = 24 * 60 * MINUTE
_NEAR = 2 * MINUTE
"""Distance of an event from the minute of its file at most: that minute may begin or end some seconds off."""
_SAME_LATENCY = 0.9
"""Share of the day's rows in which the front end's latency and a pod's must agree."""
_REPLICA_SUFFIX = re.compile(r"-[0-9a-f]{6,10}-[a-z0-9]{5}$")
_LOG_PREFIX = re.compile(r"\d\d:\d\d:\d\d[.,]\d+\s+([A-Z]+)\s+")
_NOT_METRICS = frozenset({"Time", "TimeStamp", "PodName", "ServiceName"})

_METRICS: dict[str, tuple[Metric, float]] = {
    "CpuUsage(m)": (metrics.CPU_USAGE, 1e-3),
    "CpuUsageRate(%)": (metrics.CPU_USAGE_RATIO, 1e-2),
    "MemoryUsage(Mi)": (metrics.MEMORY_WORKING_SET, 2.0**20),
    "MemoryUsageRate(%)": (metrics.MEMORY_USAGE_RATIO, 1e-2),
    "NetworkReceiveBytes": (metrics.NETWORK_RECEIVE, 1.0),
    "NetworkTransmitBytes": (metrics.NETWORK_TRANSMIT, 1.0),
    "SyscallRead": (metrics.SYSCALL_READ, 1.0),
    "SyscallWrite": (metrics.SYSCALL_WRITE, 1.0),
    "PodWorkload(Ops)": (metrics.REQUEST_RATE, 1.0),
    "PodSuccessRate(%)": (metrics.SUCCESS_RATIO, 1e-2),
    "NodeCpuUsageRate(%)": (metrics.NODE_CPU_USAGE_RATIO, 1e-2),
    "NodeMemoryUsageRate(%)": (metrics.NODE_MEMORY_USAGE_RATIO, 1e-2),
    "NodeNetworkReceiveBytes": (metrics.NODE_NETWORK_RECEIVE, 1.0),
    "PodServerLatencyP90(s)": (metrics.LATENCY_P90, 1.0),
    "PodServerLatencyP95(s)": (metrics.LATENCY_P95, 1.0),
    "PodServerLatencyP99(s)": (metrics.LATENCY_P99, 1.0),
    "PodClientLatencyP90(s)": (metrics.CLIENT_LATENCY_P90, 1.0),
    "PodClientLatencyP95(s)": (metrics.CLIENT_LATENCY_P95, 1.0),
    "PodClientLatencyP99(s)": (metrics.CLIENT_LATENCY_P99, 1.0),
}
"""Metric as Nezha calls it -> as we do, and what its values are multiplied by."""
_FRONT_METRICS: dict[str, tuple[Metric, float]] = {
    "LatencyP50(s)": (metrics.LATENCY_P50, 1.0),
    "SuccessRate(%)": (metrics.SUCCESS_RATIO, 1e-2),
}
_SILENT_IF_ZERO = frozenset({"PodSuccessRate(%)", "SuccessRate(%)"})
"""Always 0 where the collector could not tell: then it says nothing."""


@dataclass(frozen=True)
class DayMetrics:
    """``times``: (rounds,) int64 ns, one per minute. ``values``: (rounds, columns), in our units.

    ``names``: pod -> what it is called. ``front_end``: None if ``front_service.csv`` does not tell.
    ``left_out``: what of the files is not in the columns.
    """

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray
    names: Mapping[str, str]
    front_end: str | None
    left_out: LeftOut


def service_of(pod: str) -> str:
    """Return the name of the pod without the parts that Kubernetes appends."""
    return _REPLICA_SUFFIX.sub("", pod)


def read_metrics(files: Sequence[Path], front_service_file: Path) -> DayMetrics:
    """Read the metrics of one day. The samples of a round all get the time of its first sample.

    A file that cannot be used is left out and counted. Raises :class:`DatasetError` if none is left.
    """
    left_out = LeftOut()
    tables = [table for file in files if (table := _metrics_of(file, "PodName", left_out)) is not None]
    if not tables:
        raise DatasetError(f"{files[0].parent}: none of {len(files)} <pod>_metric.csv can be used: {left_out}")
    pods = [_pod(table) for table in tables]
    names = _service_names(pods)
    front = _metrics_of(front_service_file, "Time", left_out) if front_service_file.is_file() else None
    parts = tables if front is None else [*tables, front]
    moments = [_round_times(table) for table in parts]
    middle = int(np.median(np.concatenate([times[known] for times, known in moments])))
    placed = [known & (np.abs(times - middle) <= _DAY) for times, known in moments]
    for table, used in zip(parts, placed, strict=True):
        left_out.count(table.file, "a row without a usable Time", int((~used).sum()))
    start = min(int(times[used].min()) for (times, _), used in zip(moments, placed, strict=True) if used.any())
    rounds = [
        np.where(used, np.rint((times - start) / MINUTE), 0).astype(int)
        for (times, _), used in zip(moments, placed, strict=True)
    ]
    minutes = 1 + max(int(at[used].max()) for at, used in zip(rounds, placed, strict=True) if used.any())
    series: list[tuple[Column, np.ndarray]] = []
    for table, pod, at, used in zip(tables, pods, rounds, placed, strict=False):
        series += _series(table, at, used, minutes, names[pod], _METRICS)
    front_end = None if front is None else _equal_latency(front, rounds[-1], placed[-1], series)
    if front is not None and front_end is not None:
        series += _series(front, rounds[-1], placed[-1], minutes, front_end, _FRONT_METRICS, only_known=True)
    if not series:
        raise DatasetError(f"{files[0].parent}: no column of metrics")
    return DayMetrics(
        times=start + np.arange(minutes) * MINUTE,
        columns=tuple(column for column, _ in series),
        values=np.column_stack([values for _, values in series]),
        names=names,
        front_end=front_end,
        left_out=left_out,
    )


def _metrics_of(file: Path, needed: str, left_out: LeftOut) -> Table | None:
    """Read the metrics of a file. Count the file as left out and return None if it has nothing to use."""
    try:
        table = read_csv(file, left_out)
        table.require("Time", needed)
    except DatasetError:
        left_out.count(file, "a file that is no table of metrics")
        return None
    if not _round_times(table)[1].any():
        left_out.count(file, "a file without a row of metrics")
        return None
    return table


def _pod(table: Table) -> str:
    """Return the pod that most rows name, else the one in the name of the file."""
    said = pd.Series(table.text("PodName"), dtype=object).dropna().value_counts()
    return str(said.index[0]) if len(said) else table.file.name.split("_metric.csv")[0]


def _series(
    table: Table,
    at: np.ndarray,
    used: np.ndarray,
    rounds: int,
    service: str,
    known: Mapping[str, tuple[Metric, float]],
    *,
    only_known: bool = False,
) -> list[tuple[Column, np.ndarray]]:
    """Return the metrics of one file on the grid: its ``used`` rows at the positions ``at``."""
    series: dict[str, tuple[Column, np.ndarray]] = {}
    for i, name in enumerate(table.names):
        if not name or name in _NOT_METRICS or (only_known and name not in known):
            continue
        ours, factor = known.get(name, (None, 1.0))
        metric, unit = (_clean(name), None) if ours is None else (ours.name, ours.unit or None)
        if not metric or metric in series:
            table.left_out.count(table.file, f"a column {'that is there twice' if metric else 'without a name'}")
            continue
        found = table.numbers_if_any(i)
        if found is None or (name in _SILENT_IF_ZERO and not (found > 0).any()):
            continue
        values = np.full(rounds, np.nan)
        values[at[used]] = found[used] * factor
        series[metric] = (Column(service, metric, unit, name), values)
    return list(series.values())


def _clean(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _equal_latency(
    front: Table, at: np.ndarray, used: np.ndarray, series: Sequence[tuple[Column, np.ndarray]]
) -> str | None:
    """Return the service whose latency equals that of the front end."""
    latency = front.numbers_if_any("LatencyP90(s)") if "LatencyP90(s)" in front.names else None
    if latency is None:
        return None
    shares = {
        column.service: float(np.isclose(values[at[used]], latency[used]).mean())
        for column, values in series
        if column.metric == metrics.LATENCY_P90.name
    }
    best = max(shares, key=lambda service: shares[service], default=None)
    return best if best is not None and shares[best] >= _SAME_LATENCY else None


def _service_names(pods: Sequence[str]) -> dict[str, str]:
    shortened = {pod: service_of(pod) for pod in pods}
    pods_of = Counter(shortened.values())
    return {pod: service if pods_of[service] == 1 else pod for pod, service in shortened.items()}


def _round_times(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """``2022-08-22 03:51:19.607158889 +0000 UTC m=+0.113112869`` to the second, as ns since the epoch; where known."""
    written = pd.Series(table.text("Time"), dtype=object).str.slice(0, 19)
    moments = pd.to_datetime(written, format="%Y-%m-%d %H:%M:%S", errors="coerce")
    known = moments.notna().to_numpy() & (moments.dt.year > 1970).to_numpy()
    seconds = moments.where(known).to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.where(known, seconds, 0) * NANOSECONDS, known


NO_SPANS = ("time", "pod", "service", "trace_id", "span_id", "parent_span_id", "operation", "duration")
NO_LINES = ("time", "service", "node")


def read_spans(file: Path, left_out: LeftOut) -> pd.DataFrame:
    """Read the spans of a file."""
    table = read_csv(file, left_out)
    table.require("TraceID", "SpanID", "ParentID", "PodName", "OperationName", "StartTimeUnixNano", "EndTimeUnixNano")
    (start, started), (end, ended) = (table.times(f"{name}TimeUnixNano", 1) for name in ("Start", "End"))
    parent = pd.Series(table.text("ParentID"), dtype=object)
    backwards = started & (~ended | (end < start))
    frame = pd.DataFrame(
        {
            "time": start,
            "pod": table.text("PodName"),
            "trace_id": table.text("TraceID"),
            "span_id": table.text("SpanID"),
            "parent_span_id": parent.mask(parent == "root", None),
            "operation": table.text("OperationName"),
            "duration": np.where(backwards, 0, end - start) / NANOSECONDS,
        }
    )
    named = frame[["pod", "trace_id", "span_id"]].notna().all(axis=1).to_numpy()
    kept = named & started & (start > 0)
    table.left_out.count(file, "a span without ids, a pod or a start", int((~kept).sum()))
    table.left_out.count(file, "a span that ends before it starts, taken as of 0 s", int((kept & backwards).sum()))
    return frame[kept]


def read_logs(file: Path, minute: int, left_out: LeftOut) -> pd.DataFrame:
    """Read the lines of a log file. ``minute``: the minute in the name of the file, ns since the epoch.

    A line states its time twice, and in the published files a third of the ERROR lines have a ``TimeUnixNano`` of the
    year 1. That one is used where it is within ``_NEAR`` of the file's minute, else the one that is nearer to it.
    """
    table = read_csv(file, left_out)
    table.require("TimeUnixNano", "Node", "PodName", "Log")
    time, known = table.times("TimeUnixNano", 1)
    if "Timestamp" in table.names:
        time, known = _nearer(time, known, table, minute)
    known &= time > 0
    levels, messages = _parsed_lines(table.text("Log"))
    frame = pd.DataFrame(
        {
            "time": time,
            "pod": table.text("PodName"),
            "node": table.text("Node"),
            "level": levels,
            "message": messages,
        }
    )
    kept = known & frame["pod"].notna().to_numpy()
    table.left_out.count(file, "a line without a pod or a time", int((~kept).sum()))
    return frame[kept]


def _nearer(time: np.ndarray, known: np.ndarray, table: Table, minute: int) -> tuple[np.ndarray, np.ndarray]:
    far = ~known | (np.abs(time - float(minute)) > MINUTE + _NEAR)
    if not far.any():
        return time, known
    other, other_known = table.times("Timestamp")
    better = other_known & (~known | (np.abs(other - float(minute)) < np.abs(time - float(minute))))
    return np.where(far & better, other, time), known | (far & better)


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
    """Return the node of each service according to the logs; services seen on several nodes are left out."""
    seen = logs[["service", "node"]].dropna().drop_duplicates()
    alone = seen[~seen["service"].duplicated(keep=False)]
    return {str(service): str(node) for service, node in alone.itertuples(index=False)}


def read_dependencies(
    file: Path, services: Sequence[str], left_out: LeftOut
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Calls and placement of ``dependency.csv``; clients that are no candidate are left out.

    A file that cannot be read is counted: a fault has its metrics all the same.
    """
    if not file.is_file():
        return [], {}
    try:
        table = read_csv(file, left_out)
        table.require("Source", "Target")
    except DatasetError:
        left_out.count(file, "a file that is no table of calls")
        return [], {}
    pairs = [(str(a), str(b)) for a, b in zip(table.text("Source"), table.text("Target"), strict=True) if a and b]
    calls = [(source, target) for source, target in pairs if source in services and target in services]
    nodes = {source: target for source, target in pairs if source in services and target not in services}
    return calls, nodes
