"""Our cases in the layout of RCAEval, for people who bring their own methods: see ``rcaeval`` for the layout.

Service names lose ``_`` and ``/`` (RCAEval ends a service at the first ``_``), metrics get RCAEval's names where it has
one. ``inject_time.txt`` holds whole seconds, rounded down, so that no abnormal sample counts as normal.
``rcarena.json`` and ``rcarena.<signal>.parquet`` hold what the layout cannot say; RCAEval does not look at them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tasks.case import SIGNALS, Case, SignalName
from tasks.datasets.dataset import NANOSECONDS, Column
from tasks.datasets.rcaeval import INJECT_TIME_FILE, LAYOUT_NAMES, LOGS_FILE, TRACES_FILE
from tasks.datasets.rcaeval_sidecar import SIDECAR_FILE, Sidecar, digest, table_file
from tasks.system.durable import publish_directory

METRICS_FILE = "data.csv"
FAULT_NAMES = {"cpu-stress": "cpu", "memory-stress": "mem", "network-delay": "delay", "network-loss": "loss"}
"""Ours -> RCAEval's."""


@dataclass(frozen=True)
class ExportResult:
    """Folders written; ``skipped``: one line per case that the layout cannot hold."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]


def export_cases(cases: Iterable[Case], to: Path, progress: Callable[[int], None] = lambda steps: None) -> ExportResult:
    """Write ``<to>/<service>_<fault>/<n>`` per case, ``n`` in the given order; a folder of that name is replaced.

    The folder names the one root. Its victims and disturbances are in ``rcarena.json`` only.
    """
    written, skipped = [], []
    numbers: Counter[str] = Counter()
    for case in cases:
        effective = case.record.counted()
        if len(case.record.roots) == 1 == len(effective):
            short = _short_names(case.record.service_names)
            kind = effective[0].kind
            label = f"{short[effective[0].target]}_{FAULT_NAMES.get(kind, _plain(kind))}"
            numbers[label] += 1
            folder = to / label / str(numbers[label])
            _write(case, short, folder)
            written.append(folder)
        else:
            skipped.append(
                f"{case.path.name}: {case.record.fault_label}: not one effective root, which the layout needs"
            )
        progress(1)
    return ExportResult(tuple(written), tuple(skipped))


def _plain(name: str) -> str:
    return re.sub(r"[_/\\\s]+", "-", name)


def _short_names(services: Iterable[str]) -> dict[str, str]:
    """Service -> its name in the files; names that would fall together are numbered."""
    short: dict[str, str] = {}
    for service in services:
        name, number = _plain(service), 1
        while name in short.values():
            number += 1
            name = f"{_plain(service)}-{number}"
        short[service] = name
    return short


def _write(case: Case, short: Mapping[str, str], folder: Path) -> None:
    """Write beside the final place and move it there whole."""
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    columns = _write_metrics(case.metrics, short, staging / METRICS_FILE)
    if not case.logs.empty:
        _write_logs(case.logs, short, staging / LOGS_FILE)
    if not case.spans.empty:
        _write_traces(case.spans, short, staging / TRACES_FILE)
    inject = int(case.record.injection_time.timestamp())
    (staging / INJECT_TIME_FILE).write_text(f"{inject}\n", encoding="utf-8")
    own: dict[SignalName, str] = {"metrics": METRICS_FILE, "logs": LOGS_FILE, "spans": TRACES_FILE}
    tables: dict[SignalName, str] = {}
    for signal in SIGNALS:
        if (case.path / f"{signal}.parquet").is_file():
            shutil.copyfile(case.path / f"{signal}.parquet", staging / table_file(signal))
            name = own.get(signal, "")
            tables[signal] = name if (staging / name).is_file() else ""
    sidecar = Sidecar(
        record=case.record,
        columns=columns,
        services={name: service for service, name in short.items()},
        topology=[(str(r), str(a), str(b)) for r, a, b in case.topology.itertuples(index=False)],
        tables=tables,
        digests={name: found for name in own.values() if (found := digest(staging / name)) is not None},
    )
    (staging / SIDECAR_FILE).write_text(json.dumps(sidecar.document(), indent=1) + "\n", encoding="utf-8")
    publish_directory(staging, folder)


def _write_metrics(metrics: pd.DataFrame, short: Mapping[str, str], file: Path) -> dict[str, Column]:
    """Returns what each column of the file is."""
    samples = metrics.astype(dict.fromkeys(Column._fields, object))
    keys = ["service", "metric"]
    wide = samples.set_index(["time", *keys])["value"].groupby(level=["time", *keys]).first().unstack(keys)
    known = {(column.service, column.metric): column for column in _columns(samples)}
    columns: dict[str, Column] = {}
    for service, metric in zip(*(wide.columns.get_level_values(key).astype(str) for key in keys), strict=True):
        name = f"{short[service]}_{LAYOUT_NAMES.get(metric, _plain(metric))}"
        columns[_free(name, columns)] = known[service, metric]
    times = _decimal(_nanoseconds(wide.index.to_series()), NANOSECONDS)
    _write_csv({"time": pa.array(times), **{name: wide.iloc[:, i] for i, name in enumerate(columns)}}, file)
    return columns


def _write_csv(columns: Mapping[str, Any], file: Path) -> None:
    pa_csv.write_csv(pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}), file)


def _columns(samples: pd.DataFrame) -> list[Column]:
    distinct = samples[list(Column._fields)].drop_duplicates(["service", "metric"])
    texts = distinct.where(distinct.notna(), None)
    return [Column(*row) for row in texts.itertuples(index=False, name=None)]


def _free(name: str, taken: Mapping[str, Column]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _write_logs(logs: pd.DataFrame, short: Mapping[str, str], file: Path) -> None:
    columns = {
        "time": logs["time"],
        "timestamp": _nanoseconds(logs["time"]),
        "container_name": logs["service"].astype(object).map(short),
        "message": logs["message"],
        "level": logs["level"].astype(object),
        "template_id": logs["template_id"],
    }
    _write_csv(columns, file)


def _write_traces(spans: pd.DataFrame, short: Mapping[str, str], file: Path) -> None:
    start, operation = _nanoseconds(spans["start"]), spans["operation"].astype(object)
    columns = {
        "time": spans["start"],
        "traceID": spans["trace_id"],
        "spanID": spans["span_id"],
        "serviceName": spans["service"].astype(object).map(short),
        "methodName": operation,
        "operationName": operation,
        "startTimeMillis": start // 1_000_000,
        "startTime": _decimal(start, 1_000),
        "duration": _micros(spans["duration"].to_numpy(dtype=float)),
        "statusCode": spans["status_code"].astype("Int32"),
        "parentSpanID": spans["parent_span_id"],
        "attributes": spans["attributes"],
    }
    _write_csv(columns, file)


def _nanoseconds(times: pd.Series) -> np.ndarray:
    return times.dt.tz_convert(None).to_numpy().astype("datetime64[ns]").astype(np.int64)


def _micros(seconds: np.ndarray) -> Any:
    """Convert to microseconds, exactly where all are whole numbers of ns (as measured durations are)."""
    with np.errstate(invalid="ignore"):
        whole = np.rint(seconds * NANOSECONDS)
    exact = np.isfinite(whole) & (np.abs(whole) < 2**53) & (whole / NANOSECONDS == seconds)
    if not exact.all():
        return seconds * 1e6
    return _decimal(whole.astype(np.int64), 1_000)


def _decimal(nanoseconds: np.ndarray, unit: int) -> np.ndarray | pa.Array:
    """Exactly: whole units, as decimals only if one of them has a fraction."""
    if not (nanoseconds % unit).any():
        return nanoseconds // unit
    digits = len(str(unit)) - 1
    exact = pc.cast(pa.array(nanoseconds), pa.decimal128(19, 0))
    scaled = pc.multiply(exact, pa.scalar(Decimal(1).scaleb(-digits), pa.decimal128(digits + 1, digits)))
    return pc.cast(scaled, pa.string())
