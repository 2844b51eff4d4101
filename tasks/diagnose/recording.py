"""What an incident is recorded from: a live stack, or a case that is on disk already."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from tasks import __version__
from tasks.case import (
    NO_ROW,
    Case,
    CaseRecord,
    CaseWriter,
    Completeness,
    Phase,
    Sampling,
    SignalName,
    Stack,
    as_signal,
)
from tasks.diagnose.errors import DiagnoseError
from tasks.diagnose.timeline import Event, events_of_case, events_of_prometheus
from tasks.export.base import ExportContext, TelemetrySources, export_errors_of
from tasks.export.exporter import export_case
from tasks.export.masking import masked
from tasks.export.queries.metrics import METRIC_MAP_VERSION, explain_missing, missing_metrics
from tasks.export.sources.http import NO_ACCESS
from tasks.export.sources.prometheus import PrometheusClient
from tasks.params import ExportParams, Params, ScoreParams
from tasks.rca.features.change_point import Detection
from tasks.rca.run.build_view import detect_changes
from tasks.text import some

if TYPE_CHECKING:
    from tasks.backends.base import LiveStack

log = logging.getLogger(__name__)

SCAN_ROWS = 600
"""A change is looked for on at most about so many rows, however long the window."""
CLOCK_TIMEOUT_S = 5.0
SKEW_S = 2.0
"""Clocks that differ by more are worth a line."""
NO_LOAD = "no load of ours: what users asked is seen by the stack's own telemetry"
TIME_OF: dict[SignalName, str] = {"metrics": "time", "logs": "time", "spans": "start", "requests": "scheduled"}


@dataclass(frozen=True)
class Window:
    """Telemetry from ``start`` to ``end`` (UTC), and the ``change`` in it."""

    start: datetime
    change: datetime
    end: datetime

    @property
    def phases(self) -> tuple[Phase, Phase]:
        return (
            Phase(name="baseline", start=self.start, end=self.change),
            Phase(name="fault", start=self.change, end=self.end),
        )


class Recording(ABC):
    """``notes``: what a reader must know of it, such as a clock that is wrong."""

    notes: tuple[str, ...] = ()
    stack: Stack

    @abstractmethod
    def span(self, since_s: float) -> tuple[datetime, datetime]:
        """Return the time to look at: the last ``since_s`` seconds of a live stack, the whole of a case."""

    @abstractmethod
    def detect(self, start: datetime, end: datetime, params: ScoreParams) -> Detection:
        """Say when it changes between two times. Raises DiagnoseError without a sample there, ExportError."""

    @abstractmethod
    def record(self, incident: str, window: Window, folder: Path) -> Case:
        """Publish the incident below ``folder``: a case without truth. Raises DiagnoseError, ExportError."""

    def events(self, case: Case, window: Window) -> tuple[tuple[Event, ...], tuple[str, ...]]:
        """Return what else happened, in order of time, and why something of it cannot be told, one line each."""
        return events_of_case(case), ()

    def missing(self, case: Case) -> tuple[str, ...]:
        """Return what the methods could not see, one line each: whole signals, and metrics that siblings have."""
        record = case.record
        lines = [
            f"{signal}: {declared.reason.split('; ')[0] or 'nothing recorded'}"
            for signal, declared in record.completeness.items()
            if declared.status == "missing" and declared.reason != NO_LOAD
        ]
        return (*lines, *self._missing_metrics(case))

    def _missing_metrics(self, case: Case) -> list[str]:
        found = _found(case)
        lines = []
        for role in dict.fromkeys(service.role for service in case.record.stack.services):
            siblings = [service.name for service in case.record.stack.services if service.role == role]
            for metric in sorted({metric for metric, service in found if service in siblings}):
                lacking = [name for name in siblings if (metric, name) not in found]
                lines += [f"{metric} of {some(lacking)}: others of their role have it"] if lacking else []
        return lines


class LiveRecording(Recording):
    """The running stack of a backend. This process must have entered its network.

    Raises:
        ExportError: Prometheus does not answer.
    """

    def __init__(self, live: LiveStack, params: Params) -> None:
        self._live = live
        self._params = params
        self.stack = live.describe()
        self.sources: TelemetrySources = live.sources()
        self._ahead_s = self._clock_ahead_s()
        if abs(self._ahead_s) > SKEW_S:
            where = "ahead of" if self._ahead_s > 0 else "behind"
            self.notes = (
                f"the clock of Prometheus is {abs(self._ahead_s):.0f} s {where} this machine's; times are those of "
                "Prometheus, logs and spans may be off by as much",
            )

    @property
    def now(self) -> datetime:
        """The last time whose telemetry has arrived, by the clock of Prometheus."""
        return datetime.fromtimestamp(time.time() + self._ahead_s - self.sources.settle_s, UTC)

    def span(self, since_s: float) -> tuple[datetime, datetime]:
        return self.now - timedelta(seconds=since_s), self.now

    def detect(self, start: datetime, end: datetime, params: ScoreParams) -> Detection:
        own = self._params.export
        step_s = max(own.step_s, float(math.ceil((end - start).total_seconds() / SCAN_ROWS)))
        coarse = own.model_copy(update={"step_s": step_s, "rate_window_s": max(own.rate_window_s, step_s)})
        with TemporaryDirectory() as folder, CaseWriter(Path(folder), "scan") as writer:
            window = Window(start, start, end)
            completeness = export_case(
                writer, self.sources, (start, end), coarse, self.stack, ("metrics", "topology"), True
            )
            scanned = Case(writer.staging, self._record("scan", window, completeness, coarse))
            _require_samples(scanned, window)
            return _earlier(detect_changes(scanned, params), coarse.rate_window_s / 2)

    def record(self, incident: str, window: Window, folder: Path) -> Case:
        own = self._params.export
        with CaseWriter(folder, incident) as writer:
            completeness = export_case(
                writer, self.sources, (window.start, window.end), own, self.stack, forgiving=True
            )
            record = self._record(incident, window, completeness, own)
            _require_samples(Case(writer.staging, record), window)
            return writer.finish(record)

    def events(self, case: Case, window: Window) -> tuple[tuple[Event, ...], tuple[str, ...]]:
        context = ExportContext(self.sources, window.start, window.end, self._params.export, self.stack)
        found, problems = events_of_prometheus(context)
        return tuple(sorted((*events_of_case(case), *found), key=lambda event: event.time)), problems

    def _missing_metrics(self, case: Case) -> list[str]:
        units, gpus = self.sources.units, self.sources.gpus
        roles = {service.name: service.role for service in self.stack.services}
        lacking = missing_metrics(_found(case), roles, units, gpus)
        return explain_missing({name: (some(services),) for name, services in lacking.items()}, units, gpus)

    def _record(
        self, incident: str, window: Window, completeness: Mapping[SignalName, Completeness], export: ExportParams
    ) -> CaseRecord:
        return CaseRecord(
            case_id=incident,
            kind="incident",
            campaign=self._params.campaign.name,
            stack=self.stack,
            front_end=self.stack.nearest_users,
            phases=window.phases,
            completeness={**completeness, "requests": Completeness(status="missing", reason=NO_LOAD)},
            sampling=Sampling(step_s=export.step_s, rate_window_s=export.rate_window_s),
            versions={"rcarena": __version__, "metric_map": str(METRIC_MAP_VERSION), **self.stack.versions},
            parameters={"export": export.model_dump(mode="json")},
        )

    def _clock_ahead_s(self) -> float:
        """Return by how much the clock of Prometheus is ahead of this machine's; 0 without a Prometheus."""
        url, access = self.sources.prometheus_url, self.sources.access.get("prometheus", NO_ACCESS)
        if url is None:
            return 0.0
        with (
            export_errors_of("Prometheus"),
            PrometheusClient(url, timeout_s=CLOCK_TIMEOUT_S, retries=1, access=access) as client,
        ):
            before = time.time()
            return client.now() - (before + time.time()) / 2


class CaseRecording(Recording):
    """A finished case of any kind. What was injected into it is left out. ``mask``: patterns of what log
    lines must not show."""

    def __init__(self, case: Case, mask: Sequence[str] = ()) -> None:
        self._case = case
        self._mask = mask
        self.stack = case.record.stack

    @cached_property
    def _ends(self) -> tuple[datetime, datetime]:
        phases = self._case.record.phases
        return min(phase.start for phase in phases), max(phase.end for phase in phases)

    def span(self, since_s: float) -> tuple[datetime, datetime]:
        return self._ends

    def detect(self, start: datetime, end: datetime, params: ScoreParams) -> Detection:
        _require_samples(self._case, Window(start, start, end))
        return _earlier(detect_changes(self._case, params), (self._case.record.sampling.rate_window_s or 0.0) / 2)

    def record(self, incident: str, window: Window, folder: Path) -> Case:
        old = self._case.record
        completeness = dict(old.completeness)
        with CaseWriter(folder, incident) as writer:
            for signal, declared in old.completeness.items():
                if declared.status == "missing":
                    continue
                table = _cut(self._case.table(signal), TIME_OF.get(signal), window)
                if table.empty:
                    completeness[signal] = Completeness(status="missing", reason=NO_ROW)
                else:
                    writer.write(signal, masked(signal, as_signal(signal, table), self._mask))
            return writer.finish(
                old.model_copy(
                    update={
                        "case_id": incident,
                        "kind": "incident",
                        "phases": window.phases,
                        "injections": (),
                        "labels": (),
                        "scenario": None,
                        "completeness": completeness,
                        "parameters": {},
                    }
                )
            )


def _earlier(detection: Detection, lag_s: float) -> Detection:
    """Return the changes so much earlier: a rate passes half of a step in the middle of its window."""
    lag = pd.Timedelta(seconds=lag_s)
    time = None if detection.time is None else detection.time - lag
    return replace(detection, time=time, changes=tuple(each - lag for each in detection.changes))


def _cut(table: pd.DataFrame, time_column: str | None, window: Window) -> pd.DataFrame:
    if time_column is None:
        return table
    times = table[time_column]
    return table[((times >= pd.Timestamp(window.start)) & (times <= pd.Timestamp(window.end))).to_numpy()]


def _found(case: Case) -> set[tuple[str, str]]:
    """Return the (metric, service) that have samples."""
    pairs = case.metrics.dropna(subset="value")[["metric", "service"]].drop_duplicates()
    return {(str(metric), str(service)) for metric, service in pairs.itertuples(index=False, name=None)}


def _require_samples(case: Case, window: Window) -> None:
    if case.metrics["value"].notna().any():
        return
    declared = case.record.completeness["metrics"]
    why = f": {declared.reason.split('; ')[0]}" if declared.reason else ""
    raise DiagnoseError(f"no sample of any metric from {clock(window.start)} to {clock(window.end)}{why}")


def clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
