"""Tiny data sets in every layout that can be imported: made-up numbers, the real file formats."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.case import Case, read_cases
from tasks.datasets.dataset import Overrides
from tasks.datasets.importing import ImportResult, import_cases
from tasks.datasets.registry import Layout, reader

SHARED = Path(os.environ.get("RCARENA_DATASETS", Path(__file__).parents[3] / "shared" / "datasets"))


def shared(archive: str) -> Path:
    """The archive, or the test is skipped."""
    path = SHARED / archive
    if not path.is_file():
        pytest.skip(f"{path} is not here; set RCARENA_DATASETS to where the data sets are")
    return path


def imported(layout: str, directory: Path, cases_dir: Path, **overrides: Any) -> ImportResult:
    found = reader(Layout(layout))(directory, Overrides(**overrides))
    return import_cases(found, cases_dir)


def imported_cases(layout: str, directory: Path, cases_dir: Path, **overrides: Any) -> list[Case]:
    """All of them; the writer has checked that each keeps the contract."""
    result = imported(layout, directory, cases_dir, **overrides)
    assert result.failed == ()
    return read_cases(cases_dir)


# PetShop

PETSHOP_NODES = ("PetSite", "Search_AWS::ECS::Fargate", "pet/Table", "quiet")
PETSHOP_STATISTICS = (
    ("latency", "p50"),
    ("latency", "p90"),
    ("latency", "Average"),
    ("requests", "Sum"),
    ("availability", "Average"),
)
PETSHOP_INJECT = 1_681_855_320


def petshop(root: Path, issues: int = 2) -> Path:
    """A scenario of four nodes, 12 baseline rows and ``issues`` issues of 3 rows; and a scenario without baseline."""
    scenario = root / "dataset" / "low_traffic"
    _petshop_graph(scenario)
    _petshop_metrics(scenario / "noissue" / "metrics.csv", PETSHOP_NODES[:3], 1_692_608_400, 12, slow=None)
    for i in range(issues):
        folder = scenario / ("train" if i == 0 else "test") / f"issue_{i}"
        slow = PETSHOP_NODES[1 + i % 2]
        _petshop_metrics(folder / "metrics.csv", PETSHOP_NODES, PETSHOP_INJECT + 7200 * i, 3, slow=slow)
        target = {
            "target": {"node": "PetSite", "metric": "latency", "agg": "Average", "timestamp": PETSHOP_INJECT + 483},
            "root_cause": {"node": slow, "metric": None},
            "metadata": {"reproducibility": {"command": "slow it down"}},
        }
        (folder / "target.json").write_text(json.dumps(target))
    other = root / "dataset" / "temporal_traffic1"
    _petshop_graph(other)
    (other / "train" / "issue_0").mkdir(parents=True)
    return root


def _petshop_graph(scenario: Path) -> None:
    scenario.mkdir(parents=True)
    calls = {("PetSite", PETSHOP_NODES[1]), (PETSHOP_NODES[1], "pet/Table")}
    rows = [f"{a}," + ",".join("1.0" if (a, b) in calls else "0.0" for b in PETSHOP_NODES) for a in PETSHOP_NODES]
    (scenario / "graph.csv").write_text("\n".join(["," + ",".join(PETSHOP_NODES), *rows]) + "\n")


def _petshop_metrics(file: Path, nodes: tuple[str, ...], start: int, rows: int, slow: str | None) -> None:
    columns = [(node, *statistic) for node in nodes for statistic in PETSHOP_STATISTICS]
    rng = np.random.default_rng(start)
    lines = [
        f"{title}," + ",".join(column[i] for column in columns)
        for i, title in enumerate(("microservice", "metric", "statistic"))
    ]
    lines.append("unix_timestamp" + "," * len(columns))
    for row in range(rows):
        cells = []
        for node, metric, _ in columns:
            value = {"latency": 0.1, "requests": 600.0, "availability": 99.0}[metric] * rng.uniform(0.95, 1)
            value *= 20 if metric == "latency" and node in (slow, "PetSite") and slow else 1
            cells.append("" if node == "quiet" and row == 0 else repr(value))
        lines.append(f"{start + 300 * row}.0," + ",".join(cells))
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")


# Nezha

NEZHA_START = datetime(2023, 1, 30, 11, 39, 53, tzinfo=UTC)
NEZHA_FAULTS = (
    ("2023-01-30 11:51:46", "network_delay", "ts-basic-service-5dc8d4f9fd-llznp"),
    ("2023-01-30 11:59:21", "cpu_contention", "ts-food-service-f5756978c-6sb8t"),
)
NEZHA_PODS = ("ts-ui-dashboard-5477b965f-lwprp", "ts-basic-service-5dc8d4f9fd-llznp", "ts-food-service-f5756978c-6sb8t")
_NEZHA_COLUMNS = (
    "Time,TimeStamp,PodName,CpuUsage(m),CpuUsageRate(%),MemoryUsage(Mi),NetworkReceiveBytes,NetworkTransmitBytes,"
    "PodServerLatencyP90(s),PodWorkload(Ops),PodSuccessRate(%),NodeCpuUsageRate(%)"
)


def nezha(root: Path, *, events: bool = True) -> Path:
    """One day of three pods with two faults; with ``events`` also spans and logs."""
    day, construct = root / "rca_data" / "2023-01-30", root / "construct_data"
    (day / "metric").mkdir(parents=True)
    (construct / "2023-01-30").mkdir(parents=True)
    entries = [
        {"inject_time": time, "inject_timestamp": "1", "inject_pod": pod, "inject_type": kind}
        for time, kind, pod in NEZHA_FAULTS
    ]
    (day / "2023-01-30-fault_list.json").write_text(json.dumps({"11": entries}))
    stated = {
        "ts-food-service": {"cpu_contention": "CpuUsageRate(%)"},
        "ts-basic-service": {"network_delay": "NetworkP90(ms)"},
    }
    (construct / "root_cause_ts.json").write_text(json.dumps(stated))
    rng = np.random.default_rng(1)
    latency = rng.uniform(0.4, 0.5, 30)
    for p, pod in enumerate(NEZHA_PODS):
        lines = [_NEZHA_COLUMNS]
        for minute in range(30):
            time = NEZHA_START + timedelta(seconds=60 * minute + p, microseconds=607158)
            busy = 50 if pod == NEZHA_FAULTS[1][2] and 20 <= minute < 24 else 1
            served = latency[minute] if p == 0 else rng.uniform(0.01, 0.02)
            lines.append(
                f"{_nezha_time(time)},1861140279,{pod},{busy * rng.uniform(2, 2.5)},{busy * rng.uniform(1, 1.5)},"
                f"{rng.uniform(600, 601)},{rng.uniform(1e4, 2e4)},{rng.uniform(1e4, 2e4)},{served},1.5,0,"
                f"{rng.uniform(5, 6)}"
            )
        (day / "metric" / f"{pod}_metric.csv").write_text("\n".join(lines) + "\n")
    front = ["Time,TimeStamp,ServiceName,SuccessRate(%),LatencyP50(s),LatencyP90(s)"]
    front += [
        f"{_nezha_time(NEZHA_START + timedelta(minutes=minute))},1,Frontend,0,0.1,{latency[minute]}"
        for minute in range(30)
    ]
    (day / "metric" / "front_service.csv").write_text("\n".join(front) + "\n")
    if events:
        _nezha_minute(construct / "2023-01-30", "11_39", delayed=False)
        for label in ("11_51", "11_52", "11_53", "11_59", "12_00", "12_01"):
            _nezha_minute(day, label, delayed=label in ("11_52", "11_53"))
    return root


def _nezha_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S.%f}889 +0000 UTC m=+0.113112869"


def _nezha_minute(day: Path, label: str, *, delayed: bool) -> None:
    """Four traces dashboard -> basic service in the minute that ends 53 s after the full minute."""
    hour, minute = map(int, label.split("_"))
    begin = datetime(2023, 1, 30, hour, minute, tzinfo=UTC) - timedelta(seconds=7)
    spans = ["TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano,Duration"]
    logs = ["Timestamp,TimeUnixNano,Node,PodName,Container,TraceID,SpanID,Log"]
    for i in range(4):
        start = int((begin + timedelta(seconds=14 * i + 2)).timestamp()) * 10**9 + 1
        trace, wait = f"{label}-{i}", 2_000_000_000 if delayed else 1_000_000
        spans.append(f"{trace},a{i},root,{NEZHA_PODS[0]},/*,{start},{start + 10_000_000 + wait},1")
        spans.append(f"{trace},b{i},a{i},{NEZHA_PODS[1]},query,{start + wait // 2},{start + wait // 2 + 5_000_000},1")
        line = json.dumps({"log": f"19:50:59.971 INFO  Basic#{i} TraceID: {trace} [done]\n", "stream": "stdout"})
        quoted = line.replace('"', '""')
        logs.append(f'x,{start},33.33.33.80,{NEZHA_PODS[1]},server,{trace},b{i},"{quoted}"')
    stale = int(datetime(2023, 1, 28, 22, 43, 41, tzinfo=UTC).timestamp()) * 10**9
    logs.append(f"x,{stale},33.33.33.80,{NEZHA_PODS[1]},server,t,s,not JSON at all")
    for kind, lines in (("trace", spans), ("log", logs)):
        (day / kind).mkdir(exist_ok=True)
        (day / kind / f"{label}_{kind}.csv").write_text("\n".join(lines) + "\n")


# RCAEval

RCAEVAL_INJECT = 1_705_354_566


def rcaeval(folder: Path, *, service: str = "checkoutservice", file: str = "data.csv", events: bool = False) -> Path:
    """One case folder of three services, 30 rows before and 30 after the inject time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    services = sorted({"frontend", "cart-service_v2", service})
    metrics = ("cpu", "mem", "latency-50", "latency-90", "workload")
    lines = ["time," + ",".join(f"{name}_{metric}" for name in services for metric in metrics)]
    for row in range(60):
        cells = [
            repr(rng.uniform(1, 2) * (30 if row >= 30 and name == service and metric == "cpu" else 1))
            for name in services
            for metric in metrics
        ]
        lines.append(f"{RCAEVAL_INJECT - 30 + row}," + ",".join(cells))
    (folder / file).write_text("\n".join(lines) + "\n")
    (folder / "inject_time.txt").write_text(f"{RCAEVAL_INJECT}\n")
    if events:
        ns = RCAEVAL_INJECT * 10**9
        (folder / "logs.csv").write_text(
            "time,timestamp,container_name,message,level,req_path,error\n"
            f'2024,{ns},{service},"said ""no"", twice\nand again",INFO,,\n2024,{ns + 1},redis,started,,,\n'
        )
        (folder / "traces.csv").write_text(
            "time,traceID,spanID,serviceName,methodName,operationName,startTimeMillis,startTime,duration,statusCode,parentSpanID\n"
            f"x,t1,s1,frontendservice,,GET /,{ns // 10**6},{ns // 1000},2500,200,\n"
            f"x,t1,s2,{service},PlaceOrder,grpc,{ns // 10**6},{ns // 1000 + 10},1500.5,Unset,s1\n"
            "x,,,,,,,1,1,,\n".replace(",1,1,,", f",{ns // 1000},1,,")
        )
    return folder


def as_parquet(folder: Path) -> None:
    """The folder's CSV files as that copy has them: log times in s, durations and times of spans in us as integers."""
    pq.write_table(pa.Table.from_pandas(pd.read_csv(folder / "data.csv")), folder / "metrics.parquet")
    (folder / "data.csv").unlink()
    if (folder / "logs.csv").is_file():
        logs = pd.read_csv(folder / "logs.csv")[["timestamp", "container_name", "message"]]
        table = pa.Table.from_pandas(logs.assign(timestamp=logs["timestamp"] // 10**9), preserve_index=False)
        pq.write_table(table.set_column(1, "container_name", table["container_name"].cast(pa.large_string())),
                       folder / "logs.parquet")  # fmt: skip
        spans = pd.read_csv(folder / "traces.csv").dropna(subset=["traceID"])
        spans["statusCode"] = pd.to_numeric(spans["statusCode"], errors="coerce")
        whole = dict.fromkeys(("startTimeMillis", "startTime", "duration"), "int64")
        pq.write_table(pa.Table.from_pandas(spans.astype(whole), preserve_index=False), folder / "traces.parquet")
        (folder / "logs.csv").unlink()
        (folder / "traces.csv").unlink()


def as_json(folder: Path) -> None:
    """``{column: [[time, value], …]}``, an empty list for a series without samples."""
    data = pd.read_csv(folder / "data.csv")
    series = {name: [[int(t), v] for t, v in zip(data["time"], data[name], strict=True)] for name in data.columns[1:]}
    (folder / "metrics.json").write_text(json.dumps(series | {"frontend_diskio": []}))
    (folder / "data.csv").unlink()
