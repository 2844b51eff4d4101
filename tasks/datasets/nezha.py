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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.case import CaseRecord, Service, SignalName, Stack, as_signal
from tasks.datasets.dataset import (
    NANOSECONDS,
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
from tasks.datasets.nezha_files import (
    MINUTE,
    SPAN_KEY,
    DayMetrics,
    log_nodes,
    log_table,
    read_dependencies,
    read_logs,
    read_metrics,
    read_spans,
    service_of,
    span_table,
)
from tasks.datasets.tables import read_json

IMPORTER = "nezha 1"
FAULT_S = 180
DISTURBED_S = 420
MINUTE_FILES = 3
_BASELINE = f"metrics: the minutes before the injection that are {DISTURBED_S} s or more after any other"
_SHORT = "recorded for three minutes around the injection, and for one fault-free minute"
EXPECTED = "expected the layout of Nezha: rca_data/<date>/<date>-fault_list.json with metric/ beside it"

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
        readers = {"trace": read_spans, "log": read_logs}
        return {kind: [(file, read(file)) for file in self.normal_files(kind)] for kind, read in readers.items()}

    @cached_property
    def metrics(self) -> DayMetrics:
        return read_metrics(self.metric_files, self.front_service_file)

    @property
    def front_end(self) -> str | None:
        return self._front_end or self.metrics.front_end

    def called(self, pod: str) -> str:
        return self.metrics.names.get(pod) or service_of(pod)


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
        minutes = [file for kind in ("trace", "log") for file in (*day.normal_files(kind), *self._minute_files(kind))]
        texts = [IMPORTER, json.dumps(self.entry, sort_keys=True), str(day.front_end), *(file.name for file in minutes)]
        return day.digest.case_id("nezha", [*texts, *files, *minutes])

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
        metrics, rows = day.metrics, self._rows(day.metrics.times, inject, end)
        spans, spans_moved = self._events("trace", inject, end)
        logs, logs_moved = self._events("log", inject, end)
        notes = {"origin": self.origin, "baseline": _BASELINE}
        for signal, moved in (("spans", spans_moved), ("logs", logs_moved)):
            if moved:
                notes[f"fault-free {signal}"] = f"moved by {moved // NANOSECONDS} s to end where the others begin"
        target = day.called(pod)
        services = sorted({*metrics.names.values(), *spans["service"].unique(), *logs["service"].unique()})
        if target not in services:
            raise DatasetError(f"{day.fault_list}: inject_pod '{pod}' has no metrics, spans or logs")
        front_end, behind = self._front_end(services, spans)
        calls, nodes = read_dependencies(day.dependency_file, services)
        calls += span_calls(spans)
        nodes |= log_nodes(logs)
        if behind is not None:
            calls.append((front_end, behind))
            notes["topology"] = f"{front_end} is taken to call {behind}, in which the traces begin: it has no spans"
        tables: dict[SignalName, pa.Table] = {
            "metrics": metrics_table(metrics.times[rows], metrics.columns, metrics.values[rows])
        }
        if not spans.empty:
            tables["spans"] = as_signal("spans", span_table(spans))
        if not logs.empty:
            tables["logs"] = as_signal("logs", log_table(logs))
        if calls or nodes:
            tables["topology"] = topology_table(calls, nodes)
        stated = day.metric_level_truth(service_of(pod), kind)
        cause = _STATED_METRICS.get(stated, ())
        record = CaseRecord(
            case_id=self.case_id(),
            campaign=f"Nezha {day.path.name}",
            stack=Stack(
                backend="kubernetes",
                services=tuple(Service(name=name, role="service", node=nodes.get(name)) for name in services),
            ),
            front_end=front_end,
            phases=two_phases(int(metrics.times[rows][0]), inject, end),
            injections=(stated_injection(kind, target, inject, end, cause, pod=pod, stated_root_cause=stated),),
            completeness=completeness(tables, {"spans": _SHORT, "logs": _SHORT}),
            versions=versions(IMPORTER, notes),
        )
        return Draft(record, tables)

    def _front_end(self, services: Sequence[str], spans: pd.DataFrame) -> tuple[str, str | None]:
        """The front end, and the service right behind it if the front end itself has no spans."""
        root = most_common_root(spans)
        front_end = self.day.front_end or root
        if front_end is None or front_end not in services:
            names = ", ".join(services)
            raise DatasetError(f"{self.day.path}: cannot tell the front end; give --front-end (one of {names})")
        return front_end, None if spans["service"].eq(front_end).any() else root

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

    def _events(self, kind: str, inject: int, end: int) -> tuple[pd.DataFrame, int]:
        """Spans (``trace``) or lines (``log``), and by how many ns the fault-free ones among them were moved."""
        read = read_spans if kind == "trace" else read_logs
        files, normal = self._minute_files(kind), self.day.normal_minutes[kind]
        if not files:
            return read(None), 0
        opening = _label_ns(files[0], inject)
        frames = [read(file) for file in files]
        moved, begin = 0, opening
        for i, (file, minute) in enumerate(reversed(normal)):
            moved = opening - (i + 1) * MINUTE - _label_ns(file, inject)
            begin = opening - (i + 1) * MINUTE
            frames.append(minute.assign(time=minute["time"] + moved))
        # A trace that lasts into the next minute is in both files.
        events = pd.concat(frames, ignore_index=True).drop_duplicates(SPAN_KEY if kind == "trace" else None)
        # A file's minute ends some seconds before or after the full minute; a few lines are from another day.
        events = events[(events["time"] >= begin - 2 * MINUTE) & (events["time"] < end)]
        return events.assign(service=events["pod"].map(self.day.called)), moved


def _label_ns(file: Path, near: int) -> int:
    """The minute that the file is named after, on the day of ``near``."""
    try:
        labelled = datetime.strptime("_".join(file.name.split("_")[:2]), "%H_%M")
    except ValueError:
        raise DatasetError(f"{file}: expected <hour>_<minute>_<kind>.csv") from None
    midnight = near - near % (24 * 60 * MINUTE)
    return midnight + (labelled.hour * 60 + labelled.minute) * MINUTE
