"""Reduces telemetry for drawing: one panel per metric, one line per service, on one time grid.

From ``FLEET_SERVICES`` services on a panel shows the suspects and the quantiles of their siblings, and
:mod:`tasks.report.fleet_map` shows all services at a glance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.case import Case, CaseRecord
from tasks.metrics import METRICS
from tasks.report.fleet_map import FLEET_SERVICES, MAX_SIGMAS, FleetMap, fleet_map, siblings_of
from tasks.report.latency import PHASES, phase_of, seconds_since
from tasks.score.files import number

MAX_POINTS = 240
MAX_LINES = 7
MAX_PANELS = 20
BAND_QUANTILES = (0.05, 0.5, 0.95)
GAPS_NAMED = 3
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

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(points,) the time of each point."""
        return self.start_s + np.arange(self.points, dtype=np.float64) * np.float64(self.step_s)


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
    """One metric: the drawn lines, and the band of the other ``band_services`` services: minimum to maximum; of a fleet
    ``BAND_QUANTILES`` of the siblings, with the median as ``band_middle``."""

    metric: str
    unit: str
    lines: tuple[Line, ...]
    band_low: NDArray[np.float64] | None = None
    band_high: NDArray[np.float64] | None = None
    band_services: int = 0
    band_middle: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class CaseSignals:
    """Data of a case's metric figures and tables. ``left_out``: metrics beyond the panel limit; ``gaps``: series that
    a service lacks and others of its role have; ``drawn``: the services with lines; ``fleet``: of a fleet only."""

    grid: TimeGrid
    panels: tuple[Panel, ...]
    shifts: tuple[Shift, ...]
    left_out: tuple[str, ...]
    gaps: tuple[str, ...]
    drawn: tuple[str, ...] = ()
    fleet: FleetMap | None = None

    @property
    def banded(self) -> bool:
        return any(panel.band_services for panel in self.panels)


def case_signals(case: Case, origin: datetime | None = None, suspects: Sequence[str] = ()) -> CaseSignals | None:
    """Reduce a case's metrics; None without samples. ``origin``: the inject time, if not the record's. ``suspects``:
    services that methods blame, most blamed first, which are drawn of a fleet."""
    metrics = case.metrics
    metrics = metrics[np.isfinite(metrics["value"])]
    if metrics.empty:
        return None
    record = case.record
    metrics = metrics.assign(
        service=_sorted_categories(metrics["service"]),
        metric=_sorted_categories(metrics["metric"]),
        seconds=seconds_since(origin or record.injection_time, metrics["time"]),
    )
    grid = time_grid(metrics)
    series = on_grid(metrics, grid)
    units = {
        str(metric): str(unit or "")
        for metric, unit in metrics.groupby("metric", observed=True)["unit"].first().items()
    }
    medians = phase_medians(record, metrics)
    changes = medians["sigmas"].unstack("service").reindex(series.index.unique("metric"))
    targets = record.targets
    order = sorted(metric_order(changes, targets), key=constant_metrics(series).__contains__)
    lines: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (metric, service), values in zip(series.index, series.to_numpy(float), strict=True):
        lines.setdefault(metric, {})[service] = values
    shown, left_out = order[:MAX_PANELS], order[MAX_PANELS:]
    is_fleet = len(record.service_names) >= FLEET_SERVICES
    always = (*targets, record.front_end, *(suspects if is_fleet else ()))
    drawn = drawn_services(changes, always[: max(MAX_LINES, len(targets))], record.service_names)
    siblings = siblings_of(record.stack.services, (*targets, *suspects)) if is_fleet else None
    return CaseSignals(
        grid=grid,
        panels=tuple(_panel(metric, units[metric], lines[metric], drawn, siblings) for metric in shown),
        shifts=_shifts(medians, units, shown, targets or (record.front_end,)),
        left_out=tuple(left_out),
        gaps=_gaps(record, series),
        drawn=drawn,
        fleet=fleet_map(record, series, changes, order, KEY_METRICS, grid.seconds, suspects) if is_fleet else None,
    )


def _sorted_categories(names: pd.Series) -> pd.Series:
    """Return ``names`` as categories in the order of the alphabet: what is grouped by them comes in that order."""
    codes, found = pd.factorize(names)
    known = pd.Index([str(name) for name in found])
    order = np.argsort(known.to_numpy(dtype=object))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return pd.Series(pd.Categorical.from_codes(rank[codes], known[order]), index=names.index)


def _plain(index: pd.Index) -> pd.MultiIndex:
    """Return an index of (metric, service) with names in place of categories."""
    levels = [index.get_level_values(name).astype(object) for name in ("metric", "service")]
    return pd.MultiIndex.from_arrays(levels, names=["metric", "service"])


def time_grid(metrics: pd.DataFrame) -> TimeGrid:
    """Return a grid of the sampling interval (median over all series), coarsened until at most ``MAX_POINTS`` points
    remain."""
    first, last = float(metrics["seconds"].min()), float(metrics["seconds"].max())
    intervals = metrics.sort_values("seconds").groupby(["metric", "service"], observed=True)["seconds"].diff()
    native = float(intervals[intervals > 0].median()) if (intervals > 0).any() else 1.0
    step = native * max(1, int(np.ceil(((last - first) / native + 1) / MAX_POINTS)))
    points = int(np.floor((last - first) / step + 0.5)) + 1
    return TimeGrid(start_s=first, step_s=step, points=points, averaged=step > native)


def on_grid(metrics: pd.DataFrame, grid: TimeGrid) -> pd.DataFrame:
    """Return the mean per grid point: index (metric, service), one column per point, NaN without a sample."""
    point = np.floor((metrics["seconds"].to_numpy() - grid.start_s) / grid.step_s + 0.5).astype(int)
    means = metrics.groupby(["metric", "service", point], observed=True)["value"].mean()
    table = means.unstack().reindex(columns=range(grid.points))
    return table.set_axis(_plain(table.index))


def phase_medians(record: CaseRecord, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return, per (metric, service), medians in ``baseline``, ``fault``, ``recovery`` and the change in ``sigmas``.

    The scale is the baseline standard deviation, at least 1 % of the baseline median; ``sigmas`` is at most
    ``MAX_SIGMAS``, also for a departure from a constant zero.
    """
    phases = phase_of(record, metrics["time"])
    table = metrics.pivot_table(
        index=["metric", "service"], columns=phases, values="value", aggfunc="median", observed=True
    )
    table = table.reindex(columns=list(PHASES))
    table.index = _plain(table.index)
    in_baseline = metrics[(phases == "baseline").fillna(value=False)]
    spread = in_baseline.groupby(["metric", "service"], observed=True)["value"].std()
    deviation = spread.set_axis(_plain(spread.index)).reindex(table.index).fillna(0.0).to_numpy()
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


def _panel(
    metric: str,
    unit: str,
    lines: Mapping[str, NDArray[np.float64]],
    drawn: tuple[str, ...],
    siblings: Collection[str] | None,
) -> Panel:
    shown = tuple(Line(name, lines[name].copy()) for name in drawn if name in lines)
    others = [values for name, values in lines.items() if name not in drawn and (siblings is None or name in siblings)]
    if not others:
        return Panel(metric, unit, shown)
    if siblings is None:
        return Panel(metric, unit, shown, np.fmin.reduce(others), np.fmax.reduce(others), len(others))
    low, middle, high = _quantiles(np.stack(others))
    return Panel(metric, unit, shown, low, high, len(others), middle)


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``BAND_QUANTILES`` of (services, points) at each point; NaN where nobody has a sample."""
    found = np.full((len(BAND_QUANTILES), values.shape[1]), np.nan)
    known = np.isfinite(values).any(axis=0)
    found[:, known] = np.nanquantile(values[:, known], BAND_QUANTILES, axis=0)
    return found


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
    present: dict[str, set[str]] = {}
    for metric, service in series.index:
        present.setdefault(service, set()).add(metric)
    gaps: list[str] = []
    for role in ("gateway", "head", "replica"):
        siblings = [service.name for service in record.stack.services if service.role == role]
        metrics = sorted(set[str]().union(*(present.get(name, ()) for name in siblings)))
        absent = {name: [m for m in metrics if m not in present.get(name, ())] for name in siblings}
        if len(siblings) < FLEET_SERVICES:
            gaps += [f"{name}: {', '.join(missing)}" for name, missing in absent.items() if missing]
            continue
        lacking: dict[str, list[str]] = {}
        for name, missing in absent.items():
            for metric in missing:
                lacking.setdefault(metric, []).append(name)
        gaps += [f"{metric}: {_some(names)}" for metric, names in sorted(lacking.items())]
    return tuple(gaps)


def _some(names: Sequence[str]) -> str:
    if len(names) <= GAPS_NAMED:
        return ", ".join(names)
    return f"{len(names)} services ({', '.join(names[:GAPS_NAMED])}, …)"
