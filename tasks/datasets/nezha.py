"""Nezha: Yu et al., "Nezha: Interpretable Fine-Grained Root Causes Analysis for Microservices on Multi-modal
Observability Data", ESEC/FSE 2023.

A *day* is ``rca_data/<date>`` with ``<date>-fault_list.json`` and the folders ``metric`` (one file per pod for the
whole day, a row per minute), ``trace`` and ``log`` (one file per minute, three for each fault).
``construct_data/<date>`` has a fault-free minute of traces and logs, and ``construct_data/root_cause_*.json`` the truth
at metric or log level.

* ``inject_time`` is UTC. ``inject_timestamp`` (at times a minute off) and ``TimeStamp`` (200,000,000 s off in one file)
  are not used.
* A fault counts for ``FAULT_S``, about what the trace and log files cover; when it really ended is not stated.
* Baseline of the metrics: every earlier minute of the day that is ``DISTURBED_S`` or more after any injection: effects
  are seen for up to six and a half minutes. That is two or three minutes for the first fault of a day and one or two
  more with every fault, so where it is fewer than ``MIN_BASELINE``, the next such minutes after the fault make up the
  number. They are moved, together and with the holes between them, to end one minute before the others begin.
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
    BrokenCase,
    DatasetCase,
    DatasetError,
    Digest,
    Draft,
    Found,
    Overrides,
    completeness,
    metrics_table,
    most_common_root,
    stated_injection,
    topology_table,
    two_phases,
    versions,
)
from tasks.datasets.left_out import CaseLeftOut
from tasks.datasets.nezha_files import (
    MINUTE,
    NO_LINES,
    NO_SPANS,
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
from tasks.datasets.tables import read_json, visible_files
from tasks.left_out import LeftOut
from tasks.metrics import CPU_USAGE, CPU_USAGE_RATIO
from tasks.spans import service_calls

IMPORTER = "nezha 2"
FAULT_S = 180
DISTURBED_S = 420
MIN_BASELINE = 30
"""Minutes. The standard deviation of so many samples is within some 13 % of the true one; of three, within 50 %."""
MINUTE_FILES = 3
_LAST = 2**63 // NANOSECONDS - 366 * 24 * 3600
"""Seconds since 1970; later times, with a fault and a year to spare, do not fit into 64 bits of ns."""
_SHORT = "recorded for three minutes around the injection, and for one fault-free minute"
EXPECTED = "expected the layout of Nezha: rca_data/<date>/<date>-fault_list.json with metric/ beside it"

_STATED_METRICS = {"CpuUsageRate(%)": (CPU_USAGE.name, CPU_USAGE_RATIO.name)}
"""Truth at metric level. ``NetworkP90(ms)``, the other one, is not in the files: Nezha computes it from spans."""


def find(directory: Path, overrides: Overrides) -> Found:
    """Find the faults of every day below ``directory``. A day or an entry that cannot be read is a failed case."""
    overrides.refuse_all_but("front_end")
    lists = visible_files(directory, "**/*fault_list.json")
    if not lists:
        raise DatasetError(f"{directory}: {EXPECTED}")
    cases: list[DatasetCase] = []
    problems: list[str] = []
    for fault_list in lists:
        day = _Day(fault_list, overrides.front_end)
        try:
            entries = day.listed
        except DatasetError as error:
            problems.append(str(error))
            cases.append(BrokenCase(day.path.name, str(error)))
            continue
        for i, entry in enumerate(entries):
            if isinstance(entry, dict):
                cases.append(NezhaFault(day, entry))
            else:
                cases.append(BrokenCase(f"{day.path.name} entry {i + 1}", f"{fault_list}: expected {{…}}"))
    if len(problems) == len(lists):
        raise DatasetError(problems[0])
    return Found(tuple(cases))


class _Day:
    """The files that the faults of one day share; each is read once."""

    def __init__(self, fault_list: Path, front_end: str | None) -> None:
        beside, dated = fault_list.parent, fault_list.parent / fault_list.name.split("-fault_list")[0]
        self.path = dated if (dated / "metric").is_dir() else beside
        self.fault_list = fault_list
        self.digest = Digest()
        self._front_end = front_end

    @cached_property
    def listed(self) -> tuple[Any, ...]:
        """The entries of the fault list, of all hours in order."""
        document = read_json(self.fault_list)
        groups = document.values() if isinstance(document, dict) else ()
        listed = [entry for group in groups if isinstance(group, list) for entry in group]
        if not any(isinstance(entry, dict) for entry in listed):
            raise DatasetError(f'{self.fault_list}: expected {{"<hour>": [{{"inject_time": …}}, …]}}')
        return tuple(listed)

    @property
    def entries(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(entry for entry in self.listed if isinstance(entry, dict))

    @cached_property
    def injections(self) -> np.ndarray:
        """(faults,) int64 ns, sorted; what cannot be read is left out."""
        known = [parsed for parsed in (_utc(entry.get("inject_time")) for entry in self.entries) if parsed is not None]
        return np.sort(np.array(known, dtype=np.int64))

    @property
    def metric_files(self) -> list[Path]:
        files = visible_files(self.path / "metric", "*_metric.csv")
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
        return visible_files(self.construct, "root_cause_*.json") if self.construct else []

    def metric_level_truth(self, service: str, kind: str, left_out: LeftOut) -> str:
        """Return the root cause at metric level in the words of the data set; empty if it does not say."""
        for file in self.truth_files:
            try:
                document = read_json(file)
            except DatasetError:
                left_out.count(file, "a file that is no JSON")
                continue
            stated = document.get(service) if isinstance(document, dict) else None
            if isinstance(stated, dict) and kind in stated:
                return str(stated[kind])
        return ""

    def normal_files(self, kind: str) -> list[Path]:
        """Fault-free minutes of ``trace`` or ``log``, in order of time."""
        folder = self.construct / self.path.name / kind if self.construct else None
        files = visible_files(folder, f"*_{kind}.csv") if folder is not None else []
        return [file for file in files if _clock(file) is not None]

    @cached_property
    def normal_minutes(self) -> dict[str, tuple[list[tuple[Path, pd.DataFrame]], LeftOut]]:
        """Per kind the content of ``normal_files``, and what of it was left out."""
        minutes: dict[str, tuple[list[tuple[Path, pd.DataFrame]], LeftOut]] = {}
        for kind in ("trace", "log"):
            left_out = LeftOut()
            found = [
                (file, _read_minute(kind, file, int(self.injections[0]), left_out)) for file in self.normal_files(kind)
            ]
            minutes[kind] = ([(file, minute) for file, minute in found if minute is not None], left_out)
        return minutes

    @cached_property
    def metrics(self) -> DayMetrics:
        return read_metrics(self.metric_files, self.front_service_file)

    @property
    def front_end(self) -> str | None:
        return self._front_end or self.metrics.front_end

    def called(self, pod: str) -> str:
        return self.metrics.names.get(pod) or service_of(pod)


def _utc(text: object) -> int | None:
    """ns since the epoch; None if it is no time, or one that nobody injected a fault at."""
    try:
        parsed = datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    seconds = int(parsed.timestamp())
    return seconds * NANOSECONDS if 0 < seconds < _LAST else None


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
                f"{self.day.fault_list}: inject_time {self.entry.get('inject_time')!r} must be <date> <time> after 1970"
            )
        return inject

    def read(self) -> Draft:
        day, inject = self.day, self._inject
        end = inject + FAULT_S * NANOSECONDS
        pod, kind = self.entry.get("inject_pod"), self.entry.get("inject_type")
        if not isinstance(pod, str) or not isinstance(kind, str):
            raise DatasetError(f"{day.fault_list}: {self.origin}: expected inject_pod and inject_type")
        left_out = CaseLeftOut()
        metrics, rows = day.metrics, self._rows(day.metrics, inject, end)
        left_out.of("metrics").update(metrics.left_out)
        spans, spans_moved = self._events("trace", inject, end, left_out.of("spans"))
        logs, logs_moved = self._events("log", inject, end, left_out.of("logs"))
        notes = {"origin": self.origin, "baseline": rows.baseline}
        for signal, moved in (("spans", spans_moved), ("logs", logs_moved)):
            if moved:
                notes[f"fault-free {signal}"] = f"moved by {moved // NANOSECONDS} s to end where the others begin"
        target = day.called(pod)
        services = sorted({*metrics.names.values(), *spans["service"].unique(), *logs["service"].unique()})
        if target not in services:
            raise DatasetError(f"{day.fault_list}: inject_pod '{pod}' has no metrics, spans or logs")
        front_end, behind = self._front_end(services, spans)
        calls, nodes = read_dependencies(day.dependency_file, services, left_out.of("topology"))
        calls += service_calls(spans)
        nodes |= log_nodes(logs)
        if behind is not None:
            calls.append((front_end, behind))
            notes["topology"] = f"{front_end} is taken to call {behind}, in which the traces begin: it has no spans"
        tables: dict[SignalName, pa.Table] = {
            "metrics": metrics_table(rows.times, metrics.columns, metrics.values[rows.positions])
        }
        if not spans.empty:
            tables["spans"] = as_signal("spans", span_table(spans))
        if not logs.empty:
            tables["logs"] = as_signal("logs", log_table(logs))
        if calls or nodes:
            tables["topology"] = topology_table(calls, nodes)
        stated = day.metric_level_truth(service_of(pod), kind, left_out.of("metrics"))
        cause = _STATED_METRICS.get(stated, ())
        record = CaseRecord(
            case_id=self.case_id(),
            campaign=f"Nezha {day.path.name}",
            stack=Stack(
                backend="kubernetes",
                services=tuple(Service(name=name, role="service", node=nodes.get(name)) for name in services),
            ),
            front_end=front_end,
            phases=two_phases(int(rows.times[0]), inject, end),
            injections=(stated_injection(kind, target, inject, end, cause, pod=pod, stated_root_cause=stated),),
            completeness=completeness(tables, left_out.reasons({"spans": _SHORT, "logs": _SHORT}), left_out.reasons()),
            versions=versions(IMPORTER, notes),
        )
        return Draft(record, tables, left_out.summary())

    def _front_end(self, services: Sequence[str], spans: pd.DataFrame) -> tuple[str, str | None]:
        """Return the front end, and the service right behind it if the front end has no spans."""
        root = most_common_root(spans)
        front_end = self.day.front_end or root
        if front_end is None or front_end not in services:
            names = ", ".join(services)
            raise DatasetError(f"{self.day.path}: cannot tell the front end; give --front-end (one of {names})")
        return front_end, None if spans["service"].eq(front_end).any() else root

    def _rows(self, metrics: DayMetrics, inject: int, end: int) -> _Rows:
        """Choose the minutes of the baseline and of the fault."""
        times, injections = metrics.times, self.day.injections
        sampled = np.isfinite(metrics.values).any(axis=1)
        last = np.searchsorted(injections, times, side="right") - 1
        since = np.where(last >= 0, times - injections[np.maximum(last, 0)], np.iinfo(np.int64).max)
        quiet = sampled & (since >= DISTURBED_S * NANOSECONDS)
        before = np.flatnonzero(quiet & (times < inject))
        during = np.flatnonzero(sampled & (times >= inject) & (times < end))
        later = np.flatnonzero(quiet & (times >= end))[: max(MIN_BASELINE - len(before), 0)]
        for name, found in (("after", len(during)), ("before", len(before) + len(later))):
            if not found:
                raise DatasetError(
                    f"{self.day.path / 'metric'}: no row {name} the injection at {self.entry['inject_time']}"
                )
        own = np.concatenate([before, during])
        baseline = f"metrics: {len(before)} minutes before the injection, {DISTURBED_S} s or more after any other"
        if not len(later):
            return _Rows(own, times[own], baseline)
        shift = int(times[own[0]]) - MINUTE - int(times[later[-1]])
        baseline += f"; {len(later)} such minutes after it, moved by {shift // NANOSECONDS} s to end where those begin"
        return _Rows(np.concatenate([later, own]), np.concatenate([times[later] + shift, times[own]]), baseline)

    def _events(self, kind: str, inject: int, end: int, left_out: LeftOut) -> tuple[pd.DataFrame, int]:
        """Spans (``trace``) or lines (``log``), and by how many ns the fault-free ones among them were moved."""
        read = [(file, _read_minute(kind, file, inject, left_out)) for file in self._minute_files(kind)]
        files = [(file, events) for file, events in read if events is not None]
        if not files:
            return pd.DataFrame(columns=list(NO_SPANS if kind == "trace" else NO_LINES)), 0
        normal, normal_left_out = self.day.normal_minutes[kind]
        left_out.update(normal_left_out)
        opening = _label_ns(files[0][0], inject)
        frames = [events for _, events in files]
        moved, begin = 0, opening
        for i, (file, minute) in enumerate(reversed(normal)):
            moved = opening - (i + 1) * MINUTE - _label_ns(file, inject)
            begin = opening - (i + 1) * MINUTE
            frames.append(minute.assign(time=minute["time"] + moved))
        # A trace that lasts into the next minute is in both files.
        events = pd.concat(frames, ignore_index=True).drop_duplicates(SPAN_KEY if kind == "trace" else None)
        # A file's minute ends some seconds before or after the full minute; a few lines are from another day.
        inside = (events["time"] >= begin - 2 * MINUTE) & (events["time"] < end)
        thing = "span" if kind == "trace" else "line"
        left_out.count(f"{kind} files", f"a {thing} from outside the fault and its baseline", int((~inside).sum()))
        events = events[inside]
        return events.assign(service=events["pod"].map(self.day.called)), moved


@dataclass(frozen=True)
class _Rows:
    """``positions`` in the metrics of the day, ``times`` as they are in the case, and ``baseline`` in words."""

    positions: np.ndarray
    times: np.ndarray
    baseline: str


def _read_minute(kind: str, file: Path, near: int, left_out: LeftOut) -> pd.DataFrame | None:
    """Read the spans or log lines of one minute. Count the file as left out and return None if it holds neither."""
    try:
        return read_spans(file, left_out) if kind == "trace" else read_logs(file, _label_ns(file, near), left_out)
    except DatasetError:
        left_out.count(file, f"a file that is no table of {'spans' if kind == 'trace' else 'lines'}")
        return None


def _clock(file: Path) -> datetime | None:
    """Return the hour and minute in the name of the file; None if it has none."""
    try:
        return datetime.strptime("_".join(file.name.split("_")[:2]), "%H_%M")
    except ValueError:
        return None


def _label_ns(file: Path, near: int) -> int:
    """Return the minute in the name of the file, on the day of ``near``, as ns since the epoch."""
    labelled = _clock(file)
    if labelled is None:
        raise DatasetError(f"{file}: expected <hour>_<minute>_<kind>.csv")
    midnight = near - near % (24 * 60 * MINUTE)
    return midnight + (labelled.hour * 60 + labelled.minute) * MINUTE
