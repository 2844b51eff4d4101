"""Makes a simulated case and publishes it in the contract of every case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks import __version__
from tasks.backends.base import CaseOrder
from tasks.backends.simulated.calibration import read_calibration
from tasks.backends.simulated.faults import FAULTS, ROLLOUT, Shown
from tasks.backends.simulated.params import FIRST_REPLICA, SimulatedDeployParams
from tasks.backends.simulated.placement import placement
from tasks.backends.simulated.sampling import metric_rows
from tasks.backends.simulated.simulation import Simulation
from tasks.backends.simulated.telemetry import Block, Telemetry
from tasks.backends.simulated.traces import ADDED, NEW_VERSION, identifiers, log_rows, span_rows
from tasks.backends.simulated.world import Effect
from tasks.case import (
    CALLS,
    RUNS_ON,
    Case,
    CaseRecord,
    CaseWriter,
    Completeness,
    Limits,
    Phase,
    Sampling,
    Service,
    SignalName,
    Stack,
    as_signal,
)
from tasks.export.base import ROWS_PER_GROUP, Sink
from tasks.export.grid import TimeGrid
from tasks.inject.catalogue import fault_kind
from tasks.injection import Injection, Interval, PlannedInjection, ProbeRecord
from tasks.load.run import load_record
from tasks.stack import GATEWAY

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD_S = 300 * 86_400
"""A simulated case lies on whole seconds within this long after the epoch, which depend on its seed alone."""


def make_case(deploy: SimulatedDeployParams, order: CaseOrder, cases: Path) -> Case:
    """Simulate the ordered case and publish it below ``cases``. The same order gives the same bytes.

    Raises:
        ParamsError: the calibration cannot be read.
        FaultError: the calibration has no part that a fault of the case acts on.
    """
    simulation = Simulation(deploy, read_calibration(deploy.calibration), order)
    simulation.advance(simulation.end_s)
    return publish_until_now(simulation, cases)


def publish_until_now(simulation: Simulation, cases: Path) -> Case:
    """Publish below ``cases`` what has happened and was recorded until now, which must be after the warm-up: of the
    phases and injections what has begun, of the requests those that have ended."""
    return _Publisher(simulation).publish(cases)


class _Publisher:
    def __init__(self, simulation: Simulation) -> None:
        order = simulation.order
        self._deploy, self._calibration, self._order = simulation.deploy, simulation.calibration, order
        self._outcome = simulation.outcome()
        self._start = EPOCH + timedelta(seconds=int(np.random.default_rng(order.seed).integers(SPREAD_S)))
        self._start_ns = int(self._start.timestamp()) * 1_000_000_000
        self._names, self._injections = simulation.names, simulation.injections
        self._placed = placement(self._deploy, self._calibration)
        self._until_s = min(self._outcome.until_s, simulation.times.end)
        self._there = self._outcome.timeline.present(self._until_s)
        self._window = (self._at(simulation.times.baseline), self._at(self._until_s))
        self._grid = TimeGrid.aligned(*self._window, order.export.step_s)
        self._probed: dict[tuple[str, int], np.ndarray] = {}
        scheduled = self._outcome.paths.scheduled
        self._ids = identifiers(len(scheduled), order.seed)
        self._traced = np.random.default_rng([order.seed, 7]).random(len(scheduled)) < self._deploy.trace_share

    def publish(self, cases: Path) -> Case:
        order = self._order
        with CaseWriter(cases, order.case_id) as writer:
            requests = self._requests()
            writer.write("requests", requests)
            rows = {
                "metrics": self._write_metrics(writer),
                "spans": self._write(writer, "spans", self._spans()),
                "logs": self._write(writer, "logs", self._logs()),
                "topology": self._write(writer, "topology", self._topology()),
                "requests": requests.num_rows,
            }
            return writer.finish(
                CaseRecord(
                    case_id=order.case_id,
                    campaign=order.campaign,
                    scenario=order.scenario,
                    stack=self._stack(),
                    front_end=GATEWAY,
                    load=load_record(requests, order.load),
                    phases=self._phases(),
                    injections=tuple(
                        self._injection(planned, effect)
                        for planned, effect in zip(self._injections, self._outcome.effects, strict=True)
                        if effect.start_s < self._until_s
                    ),
                    completeness={name: self._complete(name, count) for name, count in rows.items()},
                    sampling=Sampling(step_s=order.export.step_s, rate_window_s=order.export.rate_window_s),
                    versions={"rcarena": __version__},
                    seed=order.seed,
                    parameters=dict(order.parameters),
                )
            )

    def _complete(self, signal: str, rows: int) -> Completeness:
        if signal in ("spans", "logs") and self._deploy.trace_share < 1:
            return Completeness(status="partial", reason=f"{self._deploy.trace_share:g} of the requests are traced")
        return Completeness(status="complete" if rows else "missing", reason="" if rows else "no row in the window")

    def _at(self, seconds: float) -> datetime:
        return self._start + timedelta(seconds=seconds)

    def _phases(self) -> tuple[Phase, ...]:
        times = self._outcome.times
        begins = {"baseline": times.baseline, "fault": times.fault, "recovery": times.recovery}
        ends = (times.fault, times.recovery, times.end)
        return tuple(
            Phase(name=name, start=self._at(begin), end=self._at(min(end, self._until_s)))
            for (name, begin), end in zip(begins.items(), ends, strict=True)
            if begin < self._until_s
        )

    # -- signals

    def _requests(self) -> pa.Table:
        paths, served = self._outcome.paths, self._outcome.served
        lost = served.lost
        failed = np.isnan(paths.last_token)
        ended = ~failed | lost | (np.where(paths.refused, paths.sent, paths.gave_up) <= self._outcome.until_s)
        kept = (paths.scheduled >= self._outcome.times.baseline) & ended
        error = np.full(len(kept), None, dtype=object)
        error[failed] = "timeout"
        error[lost] = None
        error[paths.refused] = "connection refused"
        status = np.where(np.isnan(paths.first_token) & failed, np.nan, 200.0)
        status[lost] = 500
        ids, traces, _ = self._ids
        columns = {
            name: pd.Series(self._time(values), dtype="datetime64[ns, UTC]")
            for name, values in (
                ("scheduled", paths.scheduled),
                ("sent", paths.sent),
                ("first_token", np.where(lost, np.nan, paths.first_token)),
                ("last_token", np.where(lost, np.nan, paths.last_token)),
            )
        }
        table = pd.DataFrame(
            {
                "request_id": ids,
                "trace_id": traces,
                **columns,
                "tokens_in": paths.prompt_tokens,
                "tokens_out": np.where(failed | lost, 0, paths.output_tokens),
                "status": pd.Series(status).astype("Int32"),
                "error": error,
            }
        )
        return as_signal("requests", table[kept].reset_index(drop=True))

    def _time(self, at_s: np.ndarray) -> pd.DatetimeIndex:
        """Return times in whole microseconds; NaN becomes NaT."""
        ns = np.where(
            np.isnan(at_s), np.iinfo(np.int64).min, np.round(np.nan_to_num(at_s) * 1e6) * 1000 + self._start_ns
        )
        return pd.DatetimeIndex(ns.astype(np.int64)).tz_localize("UTC")

    def _write(self, writer: CaseWriter, signal: SignalName, table: pd.DataFrame) -> int:
        with Sink(signal, writer.path(signal)) as sink:
            sink.write(table)
        return sink.rows

    def _write_metrics(self, writer: CaseWriter) -> int:
        telemetry = Telemetry(
            self._outcome,
            self._deploy,
            self._calibration,
            self._grid,
            self._start_ns,
            self._order.export.rate_window_s,
            self._order.seed & 0x7FFFFFFF,
        )
        wanted = {
            (shown.metric.name, self._names.index(planned.target))
            for planned in self._injections
            for shown in FAULTS[planned.kind].shown
        }
        names = pa.array([self._names[i] for i in self._there])
        with Sink("metrics", writer.path("metrics")) as sink:
            for block in telemetry.blocks():
                self._keep_probed(block, wanted)
                for part in metric_rows(
                    block.metric,
                    block.values,
                    np.searchsorted(self._there, block.services),
                    self._grid.times_ns,
                    names,
                    ROWS_PER_GROUP,
                ):
                    sink.write(part)
        return sink.rows

    def _keep_probed(self, block: Block, wanted: set[tuple[str, int]]) -> None:
        for name, service in wanted:
            if name == block.metric.name and service in block.services:
                column = int(np.flatnonzero(block.services == service)[0])
                self._probed[name, service] = block.values[:, column].copy()

    def _spans(self) -> pd.DataFrame:
        paths, times = self._outcome.paths, self._outcome.times
        spans = span_rows(paths, self._outcome.served, self._names, self._ids, self._traced, self._until_s)
        spans = spans[spans["start_s"] + spans["duration"] >= times.baseline]
        return spans.assign(start=self._time(spans["start_s"].to_numpy())).drop(columns="start_s")

    def _logs(self) -> pd.DataFrame:
        outcome = self._outcome
        restarts = [
            (each.service, each.start_s, each.end_s)
            for each in (*outcome.effects, *outcome.actions)
            if each.restarts and each.start_s <= self._until_s
        ]
        lines = log_rows(
            outcome.paths,
            outcome.served,
            self._names,
            self._ids,
            self._traced,
            restarts,
            self._rollouts(),
            self._until_s,
        )
        lines = lines[(lines["time_s"] >= outcome.times.baseline) & (lines["time_s"] <= self._until_s)]
        return lines.assign(time=self._time(lines["time_s"].to_numpy())).drop(columns="time_s")

    def _rollouts(self) -> list[tuple[float, int, str]]:
        """Return when a service ran a new version, or was added."""
        outcome = self._outcome
        versions = [(each.start_s, each.service, NEW_VERSION) for each in outcome.effects if each.kind == ROLLOUT]
        joined = [(each.end_s, each.service, ADDED) for each in outcome.absences]
        return [each for each in (*versions, *joined) if each[0] <= self._until_s]

    def _topology(self) -> pd.DataFrame:
        names = self._names
        rows = [(CALLS, names[0], names[1])]
        rows += [(CALLS, names[1], names[i]) for i in self._there[FIRST_REPLICA:]]
        rows += [
            (RUNS_ON, service.name, node) for service in self._services() for node in self._placed[service.name].nodes
        ]
        return pd.DataFrame(rows, columns=["relation", "source", "target"])

    # -- the record

    def _services(self) -> tuple[Service, ...]:
        engine = self._calibration.engine
        services = []
        roles = self._deploy.roles()
        for i in self._there:
            name = self._names[i]
            role, place = roles.get(name, "replica"), self._placed[name]
            limits = Limits(cpu_cores=self._calibration.host_of(i).cores)
            if role == "replica":
                limits = limits.model_copy(update={"max_num_seqs": engine.max_num_seqs})
            services.append(Service(name=name, role=role, node=place.nodes[0], limits=limits, devices=place.devices))
        return tuple(services)

    def _stack(self) -> Stack:
        groups = self._deploy.replica_groups
        return Stack(
            backend="simulated",
            simulated=True,
            model=self._calibration.model,
            engine=self._calibration.engine_name,
            parallelism={"data": self._deploy.replicas, "tensor": groups[0].tensor, "pipeline": groups[0].pipeline},
            versions={"calibration": self._calibration.name},
            services=self._services(),
        )

    def _injection(self, planned: PlannedInjection, effect: Effect) -> Injection:
        kind, fault = fault_kind(planned.kind), FAULTS[planned.kind]
        service = self._names.index(planned.target)
        figures = [self._figures(shown, service, effect.start_s, effect.end_s) for shown in fault.shown]
        unseen = [
            f"no {shown.criterion} of {shown.metric}: {_plain(figure[0])} before, {_plain(figure[1])} during"
            for shown, figure in zip(fault.shown, figures, strict=True)
            if figure[0] is None or figure[1] is None or not shown.is_seen(figure[0], figure[1])
        ]
        first, (before, during, after) = fault.shown[0], figures[0]
        seen = f"{first.metric}: {_plain(before)} before, {_plain(during)} during, {_plain(after)} after"
        window = planned.interval(self._at(self._outcome.times.fault))
        ended = min(window.end, self._at(min(effect.end_s, self._until_s) if effect.cured else self._until_s))
        return Injection(
            kind=planned.kind,
            target=planned.target,
            role=planned.role,
            group=kind.group_on("simulated"),
            parameters=dict(planned.parameters),
            executor="simulated",
            planned=window,
            observed=Interval(start=window.start, end=ended),
            probe=ProbeRecord(
                name=first.metric.name, unit=first.metric.unit, before=before, during=during, after=after
            ),
            verdict="ineffective" if unseen else "effective",
            reason="; ".join(unseen) or seen,
            metrics=tuple(metric.name for metric in kind.metrics),
        )

    def _figures(
        self, shown: Shown, service: int, start_s: float, end_s: float
    ) -> tuple[float | None, float | None, float | None]:
        """Return the figure before, during and after the effect: a quantile, or the share of missing samples."""
        values = self._probed.get((shown.metric.name, service))
        if values is None:
            return None, None, None
        at_s = (self._grid.times_ns - self._start_ns) / 1e9
        settle_s = min(self._order.export.rate_window_s, (min(end_s, at_s[-1]) - start_s) / 2)
        phases = (at_s < start_s, (at_s >= start_s + settle_s) & (at_s < end_s), at_s >= end_s + settle_s)
        before, during, after = (_figure(values[phase], shown) for phase in phases)
        return before, during, after


def _figure(values: np.ndarray, shown: Shown) -> float | None:
    if not len(values):
        return None
    if shown.change == "silence":
        return float(np.isnan(values).mean())
    known = values[~np.isnan(values)]
    return float(np.quantile(known, shown.quantile)) if len(known) else None


def _plain(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
