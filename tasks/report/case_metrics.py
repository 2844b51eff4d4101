"""Reduces telemetry for drawing: one panel per metric, one line per service, on one time grid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.case import Case, CaseRecord
from tasks.metrics import METRICS
from tasks.report.latency import PHASES, phase_of, seconds_since
from tasks.score.files import number

MAX_POINTS = 240
MAX_LINES = 7
MAX_PANELS = 20
MAX_SIGMAS = 1000.0
KEY_METRICS = tuple(metric.name for metric in METRICS.values() if metric.key)
"""Metrics drawn first, in this order; others follow, most changed first, constant ones last."""


@dataclass(frozen=True)
class TimeGrid:
    """Points ``start_s + i * step_s``, in seconds since injection, for i in 0..points-1. ``averaged``: a point stands
    for the mean of several samples."""

    start_s: float
    step_s: float
    points: int
    averaged: bool


@dataclass(frozen=True)
class Line:
    service: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """Medians of one metric of one service per phase (None: no samples), and ``sigmas``: the distance of the fault
    median from the baseline median, in baseline standard deviations."""

    metric: str
    service: str
    unit: str
    baseline: float | None
    fault: float | None
    recovery: float | None
    sigmas: float | None


@dataclass(frozen=True)
class Panel:
    """One metric: the drawn lines, and the min..max band of the other ``band_services`` services."""

    metric: str
    unit: str
    lines: tuple[Line, ...]
    band_low: NDArray[np.float64] | None = None
    band_high: NDArray[np.float64] | None = None
    band_services: int = 0


@dataclass(frozen=True)
class CaseSignals:
    """Data of a case's metric figures and tables. ``left_out``: metrics beyond the panel limit; ``gaps``: series that
    a service lacks and others of its role have."""

    grid: TimeGrid
    panels: tuple[Panel, ...]
    shifts: tuple[Shift, ...]
    left_out: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def banded(self) -> bool:
        return any(panel.band_services for panel in self.panels)


def case_signals(case: Case, origin: datetime | None = None) -> CaseSignals | None:
    """Reduce a case's metrics; None without samples. ``origin``: the inject time, if not the record's."""
    metrics = case.metrics
    metrics = metrics[np.isfinite(metrics["value"])]
    if metrics.empty:
        return None
    record = case.record
    metrics = metrics.assign(
        service=metrics["service"].astype(str),
        metric=metrics["metric"].astype(str),
        seconds=seconds_since(origin or record.injection_time, metrics["time"]),
    )
    grid = time_grid(metrics)
    series = on_grid(metrics, grid)
    units = {str(metric): str(unit or "") for metric, unit in metrics.groupby("metric")["unit"].first().items()}
    medians = phase_medians(record, metrics)
    changes = medians["sigmas"].unstack("service").reindex(series.index.unique("metric"))
    targets = record.targets
    order = sorted(metric_order(changes, targets), key=constant_metrics(series).__contains__)
    lines: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (metric, service), values in zip(series.index, series.to_numpy(float), strict=True):
        lines.setdefault(metric, {})[service] = values
    shown, left_out = order[:MAX_PANELS], order[MAX_PANELS:]
    drawn = drawn_services(changes, (*targets, record.front_end), record.service_names)
    return CaseSignals(
        grid=grid,
        panels=tuple(_panel(metric, units[metric], lines[metric], drawn) for metric in shown),
        shifts=_shifts(medians, units, shown, targets or (record.front_end,)),
        left_out=tuple(left_out),
        gaps=_gaps(record, series),
    )


def time_grid(metrics: pd.DataFrame) -> TimeGrid:
    """Return a grid of the sampling interval (median over all series), coarsened until at most ``MAX_POINTS`` points
    remain."""
    first, last = float(metrics["seconds"].min()), float(metrics["seconds"].max())
    intervals = metrics.sort_values("seconds").groupby(["metric", "service"])["seconds"].diff()
    native = float(intervals[intervals > 0].median()) if (intervals > 0).any() else 1.0
    step = native * max(1, int(np.ceil(((last - first) / native + 1) / MAX_POINTS)))
    points = int(np.floor((last - first) / step + 0.5)) + 1
    return TimeGrid(start_s=first, step_s=step, points=points, averaged=step > native)


def on_grid(metrics: pd.DataFrame, grid: TimeGrid) -> pd.DataFrame:
    """Return the mean per grid point: index (metric, service), one column per point, NaN without a sample."""
    point = np.floor((metrics["seconds"].to_numpy() - grid.start_s) / grid.step_s + 0.5).astype(int)
    means = metrics.groupby(["metric", "service", point])["value"].mean()
    return means.unstack().reindex(columns=range(grid.points))


def phase_medians(record: CaseRecord, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return, per (metric, service), medians in ``baseline``, ``fault``, ``recovery`` and the change in ``sigmas``.

    The scale is the baseline standard deviation, at least 1 % of the baseline median; ``sigmas`` is at most
    ``MAX_SIGMAS``, also for a departure from a constant zero.
    """
    phases = phase_of(record, metrics["time"])
    table = metrics.pivot_table(index=["metric", "service"], columns=phases, values="value", aggfunc="median")
    table = table.reindex(columns=list(PHASES))
    in_baseline = metrics[(phases == "baseline").fillna(value=False)]
    deviation = in_baseline.groupby(["metric", "service"])["value"].std().reindex(table.index).fillna(0.0).to_numpy()
    baseline, fault = table["baseline"].to_numpy(), table["fault"].to_numpy()
    scale = np.maximum(deviation, 0.01 * np.abs(baseline))
    with np.errstate(divide="ignore", invalid="ignore"):
        sigmas = np.where(fault == baseline, 0.0, np.abs(fault - baseline) / scale)
    return table.assign(sigmas=np.minimum(sigmas, MAX_SIGMAS))


def metric_order(changes: pd.DataFrame, targets: tuple[str, ...]) -> list[str]:
    """Return the metrics: key metrics first, then the most changed on the targets (without targets: on any service).

    ``changes``: sigmas, one row per metric, one column per service.
    """
    key = [metric for metric in KEY_METRICS if metric in changes.index]
    relevant = changes.reindex(columns=list(targets)) if targets else changes
    rest = relevant.drop(index=key).max(axis=1).fillna(-1.0).sort_index()
    return key + [str(metric) for metric in rest.sort_values(ascending=False, kind="stable").index]


def constant_metrics(series: pd.DataFrame) -> set[str]:
    """Return the metrics with one value in all samples of all services, which are drawn last."""
    of_metric = series.groupby(level="metric")
    low, high = of_metric.min().min(axis=1), of_metric.max().max(axis=1)
    return set(low.index[low == high])


def drawn_services(changes: pd.DataFrame, always: tuple[str, ...], services: tuple[str, ...]) -> tuple[str, ...]:
    """Return at most ``MAX_LINES`` services: ``always``, then those with the largest mean change over metrics."""
    if len(services) <= MAX_LINES:
        return services
    mean_change = changes.mean().reindex(list(services)).fillna(-1.0).to_dict()
    by_change = sorted(services, key=lambda name: -mean_change[name])
    chosen = list(dict.fromkeys([*always, *by_change]))[: max(MAX_LINES, len(set(always)))]
    return tuple(name for name in services if name in chosen)


def _panel(metric: str, unit: str, lines: dict[str, NDArray[np.float64]], drawn: tuple[str, ...]) -> Panel:
    shown = tuple(Line(name, lines[name]) for name in drawn if name in lines)
    others = [values for name, values in lines.items() if name not in drawn]
    if not others:
        return Panel(metric, unit, shown)
    return Panel(metric, unit, shown, np.fmin.reduce(others), np.fmax.reduce(others), len(others))


def _shifts(
    medians: pd.DataFrame, units: dict[str, str], metrics: list[str], services: tuple[str, ...]
) -> tuple[Shift, ...]:
    rows = medians.reset_index()
    rows = rows[rows["service"].isin(services) & rows["metric"].isin(metrics)]
    rows = rows.sort_values("sigmas", ascending=False, kind="stable", na_position="last")
    return tuple(
        Shift(
            metric=row["metric"],
            service=row["service"],
            unit=units[row["metric"]],
            baseline=number(row["baseline"]),
            fault=number(row["fault"]),
            recovery=number(row["recovery"]),
            sigmas=number(row["sigmas"]),
        )
        for row in rows.to_dict("records")
    )


def _gaps(record: CaseRecord, series: pd.DataFrame) -> tuple[str, ...]:
    present = set(series.index)
    gaps = []
    for role in ("gateway", "head", "replica"):
        siblings = [service.name for service in record.stack.services if service.role == role]
        metrics = sorted({metric for metric, service in present if service in siblings})
        for name in siblings:
            absent = [metric for metric in metrics if (metric, name) not in present]
            if absent:
                gaps.append(f"{name}: {', '.join(absent)}")
    return tuple(gaps)
