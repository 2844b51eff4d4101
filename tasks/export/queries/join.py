"""Joins series by pod, GPU or callee to services.

The join is not made in PromQL: ``* on (pod) group_left`` fails when a pod has two series on the "one" side (it was
replaced, or is scraped twice), and costs the server a lookup per sample. Here the largest of several values of a unit
at one time counts, and the units of a service are then summed or averaged. A sample belongs to the service that held
the unit at that time.

A step has a result where any unit of the service has a sample; it is NaN only where no unit has a number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tasks.export.grid import TimeGrid, on_grid
from tasks.export.queries.promql import Combine
from tasks.export.sources.matrix import Series
from tasks.export.sources.placement import Join, Placement
from tasks.export.values import real_number

Kind = TypeVar("Kind", bound=Hashable)

BUCKET_LABEL, RANGE_LABEL = "le", "vmrange"


@dataclass(frozen=True)
class Row:
    """Values of one service on a grid: ``values`` (steps,) float64; ``present`` (steps,) bool, where samples exist."""

    values: np.ndarray
    present: np.ndarray

    @classmethod
    def empty(cls, steps: int) -> Row:
        return cls(np.full(steps, np.nan), np.zeros(steps, dtype=bool))


_COMBINE: dict[Combine, Callable[..., np.ndarray]] = {
    "sum": np.nansum,
    "mean": np.nanmean,
    "max": np.nanmax,
    "min": np.nanmin,
}


def join_series(
    series: Iterable[Series], grid: TimeGrid, placement: Placement, join: Join, combine: Combine
) -> dict[str, Row]:
    """Return service -> its values; services without a sample are absent."""
    units = _units([("", item) for item in on_grid(list(series), grid)], grid, placement, join)
    return {service: _combined(list(rows.values()), combine) for (service, _), rows in units.items()}


def ratio_of(numerators: dict[str, Row], denominators: dict[str, Row]) -> dict[str, Row]:
    """Divide step by step where both have samples; NaN where the denominator is zero."""
    result = {}
    for service, above in numerators.items():
        below = denominators.get(service)
        if below is None:
            continue
        divisor = np.where(below.values == 0, np.nan, below.values)
        result[service] = Row(above.values / divisor, above.present & below.present)
    return result


def join_buckets(
    series: Iterable[Series], grid: TimeGrid, placement: Placement, join: Join, quantile: float
) -> dict[str, Row]:
    """Return service -> quantile of its histogram, whose buckets are summed over its units first.

    Bounds are compared as numbers: ``1``, ``1.0`` and ``1e0`` are one bucket. VictoriaMetrics's buckets (``vmrange``)
    are used for services without others. Series without a bound are ignored.
    """
    series = on_grid(list(series), grid)
    buckets = _added_buckets([(_bound(item.labels), item) for item in series], grid, placement, join)
    ranges = _added_buckets([(_range(item.labels), item) for item in series], grid, placement, join)
    of_service = {**{service: _cumulated(counted) for service, counted in ranges.items()}, **buckets}
    return {service: bucket_quantile(rows, quantile) for service, rows in of_service.items()}


def _bound(labels: Mapping[str, str]) -> float | None:
    """Return the upper bound of a bucket."""
    bound = real_number(labels.get(BUCKET_LABEL))
    return None if bound is None or np.isnan(bound) else bound


def _range(labels: Mapping[str, str]) -> tuple[float, float] | None:
    """Return both bounds of a bucket of VictoriaMetrics's kind, such as ``1.000e-01...1.136e-01``."""
    lower, dots, upper = labels.get(RANGE_LABEL, "").partition("...")
    bounds = real_number(lower), real_number(upper)
    if not dots or bounds[0] is None or bounds[1] is None or not bounds[0] < bounds[1]:
        return None
    return bounds[0], bounds[1]


def _added_buckets(
    series: Iterable[tuple[Kind | None, Series]], grid: TimeGrid, placement: Placement, join: Join
) -> dict[str, dict[Kind, Row]]:
    """Return service -> bound -> the bucket's counts, of all units."""
    units = _units([(bound, item) for bound, item in series if bound is not None], grid, placement, join)
    buckets: dict[str, dict[Kind, Row]] = defaultdict(dict)
    for (service, bound), rows in units.items():
        buckets[service][bound] = _combined(list(rows.values()), "sum")
    return buckets


def _cumulated(counted: dict[tuple[float, float], Row]) -> dict[float, Row]:
    """Convert buckets between two bounds into cumulative buckets up to the upper bound."""
    present = np.logical_or.reduce([row.present for row in counted.values()])
    bounds = sorted({bound for pair in counted for bound in pair} | {np.inf})
    below = {
        bound: [np.nan_to_num(row.values) for (_, upper), row in counted.items() if upper <= bound] for bound in bounds
    }
    return {bound: Row(np.sum(counts, axis=0) + np.zeros(len(present)), present) for bound, counts in below.items()}


def bucket_quantile(buckets: dict[float, Row], quantile: float) -> Row:
    """Compute Prometheus's ``histogram_quantile``: linear within the bucket, NaN where nothing was counted. A step has
    a result where the infinite bucket has a sample; buckets without a sample at that step are ignored. Counts that
    decrease with the bound are raised to the count below.

    Args:
        buckets: upper bound -> cumulative count; one bound is infinite.
    """
    bounds = np.array(sorted(buckets))
    everywhere = np.array([buckets[bound].present for bound in bounds])
    present = everywhere[-1]
    if len(bounds) < 2 or not np.isposinf(bounds[-1]):
        return Row(np.full(len(present), np.nan), present)
    counts = np.maximum.accumulate([np.nan_to_num(buckets[bound].values) for bound in bounds])
    last_bound = np.maximum.accumulate(np.where(everywhere, bounds[:, None], -np.inf))
    total = counts[-1]
    rank = quantile * total
    index = np.minimum((counts < rank).sum(axis=0), len(bounds) - 1)
    steps = np.arange(len(present))
    below_bound = np.where(index > 0, last_bound[np.maximum(index - 1, 0), steps], -np.inf)
    lower = np.where(np.isfinite(below_bound), below_bound, np.minimum(0.0, bounds[index]))
    below = np.where(index > 0, counts[np.maximum(index - 1, 0), steps], 0.0)
    inside = counts[index, steps] - below
    upper = bounds[index]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = lower + (upper - lower) * np.where(inside > 0, (rank - below) / inside, 0.0)
    highest = last_bound[-2]
    within = np.where(np.isinf(upper), np.where(np.isfinite(highest), highest, np.nan), within)
    return Row(np.where(total > 0, within, np.nan), present)


def row_series(service: str, row: Row, grid: TimeGrid) -> Series:
    return Series({"service": service}, grid.times_ns[row.present], row.values[row.present])


def _units(
    series: Iterable[tuple[Kind, Series]], grid: TimeGrid, placement: Placement, join: Join
) -> dict[tuple[str, Kind], dict[str, Row]]:
    """Return ``(service, kind)`` -> unit -> its samples, the largest of several at one time."""
    units: dict[tuple[str, Kind], dict[str, Row]] = defaultdict(dict)
    for kind, item in series:
        unit = _call_kind(item.labels) if join == "callee" else ""
        for holding in placement.holdings(item.labels, join):
            held = (item.times_ns >= holding.start_ns) & (item.times_ns < holding.end_ns)
            if not held.any():
                continue
            row = units[holding.service, kind].setdefault(unit or holding.unit, Row.empty(grid.steps))
            at = grid.nearest(item.times_ns[held])
            row.values[at] = np.fmax(row.values[at], item.values[held])
            row.present[at] = True
    return units


def _call_kind(labels: Mapping[str, str]) -> str:
    """Return a key of the labels of a call: calls that reach a service by different names add up."""
    return repr(sorted((name, value) for name, value in labels.items() if name not in (BUCKET_LABEL, RANGE_LABEL)))


def _combined(rows: list[Row], combine: Combine) -> Row:
    if len(rows) == 1:
        return rows[0]
    values = np.stack([row.values for row in rows])
    present = np.logical_or.reduce([row.present for row in rows])
    known = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[known] = _COMBINE[combine](values[:, known], axis=0)
    return Row(result, present)
