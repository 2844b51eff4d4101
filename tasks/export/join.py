"""Series by pod, GPU or callee -> series by service.

The join is made here and not in PromQL: ``* on (pod) group_left`` fails as soon as a pod has two series on the side of
one (it was replaced, or is scraped twice), and it costs the server a lookup per sample. Here a duplicate is one more
series of the same unit: of several values of a unit at one time the largest counts, and the units of a service are then
added up or averaged. A sample counts for the service that held the unit at that time.

A step at which no unit of a service has a sample has none in the result either; NaN stays NaN only where no unit has a
figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tasks.export.matrix import Series
from tasks.export.placement import Placement
from tasks.export.prometheus import TimeGrid
from tasks.export.promql import Combine, Join

BUCKET_LABEL = "le"


@dataclass(frozen=True)
class Row:
    """Values of one service on a grid: ``values`` (steps,) float64, ``present`` (steps,) bool: a sample was there."""

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
    """service -> its values; services without a sample are absent."""
    units = _units(series, grid, placement, join, "")
    return {service: _combined(list(rows.values()), combine) for (service, _), rows in units.items()}


def ratio_of(numerators: dict[str, Row], denominators: dict[str, Row]) -> dict[str, Row]:
    """Step by step where both have samples; NaN where the denominator is zero."""
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
    """service -> a quantile of its histogram: the buckets of all its units are added up first."""
    units = _units(series, grid, placement, join, BUCKET_LABEL)
    buckets: dict[str, dict[float, Row]] = defaultdict(dict)
    for (service, bound), rows in units.items():
        try:
            buckets[service][float(bound)] = _combined(list(rows.values()), "sum")
        except ValueError:
            continue  # a series without a bucket's bound is none of the histogram
    return {service: bucket_quantile(rows, quantile) for service, rows in buckets.items()}


def bucket_quantile(buckets: dict[float, Row], quantile: float) -> Row:
    """Prometheus's ``histogram_quantile``: linear within the bucket, NaN where nothing was counted.

    Args:
        buckets: upper bound -> count of what is at most that; one of them is infinite.
    """
    bounds = np.array(sorted(buckets))
    present = np.logical_and.reduce([buckets[bound].present for bound in bounds])
    if len(bounds) < 2 or not np.isinf(bounds[-1]):
        return Row(np.full(len(present), np.nan), present)
    counts = np.maximum.accumulate([np.nan_to_num(buckets[bound].values) for bound in bounds])
    total = counts[-1]
    rank = quantile * total
    index = np.minimum((counts < rank).sum(axis=0), len(bounds) - 1)
    steps = np.arange(len(present))
    lower = np.where(index > 0, bounds[np.maximum(index - 1, 0)], np.minimum(0.0, bounds[0]))
    below = np.where(index > 0, counts[np.maximum(index - 1, 0), steps], 0.0)
    inside = counts[index, steps] - below
    upper = bounds[index]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = lower + (upper - lower) * np.where(inside > 0, (rank - below) / inside, 0.0)
    within = np.where(np.isinf(upper), bounds[-2], within)
    return Row(np.where(total > 0, within, np.nan), present)


def row_series(service: str, row: Row, grid: TimeGrid) -> Series:
    return Series({"service": service}, grid.times_ns[row.present], row.values[row.present])


def _units(
    series: Iterable[Series], grid: TimeGrid, placement: Placement, join: Join, label: str
) -> dict[tuple[str, str], dict[str, Row]]:
    """``(service, value of label)`` -> unit -> its samples, the largest of several at one time."""
    units: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for item in series:
        value = item.labels.get(label, "") if label else ""
        unit = _call_kind(item.labels) if join == "callee" else ""
        steps = np.rint((item.times_ns / 1e6 - grid.start_ms) / grid.step_ms).astype(np.int64)
        for holding in placement.holdings(item.labels, join):
            held = (item.times_ns >= holding.start_ns) & (item.times_ns < holding.end_ns)
            if not held.any():
                continue
            row = units[holding.service, value].setdefault(unit or holding.unit, Row.empty(grid.steps))
            at = steps[held]
            row.values[at] = np.fmax(row.values[at], item.values[held])
            row.present[at] = True
    return units


def _call_kind(labels: Mapping[str, str]) -> str:
    """Calls that reach a service by different names are parts of a sum, not duplicates."""
    return repr(sorted((name, value) for name, value in labels.items() if name != BUCKET_LABEL))


def _combined(rows: list[Row], combine: Combine) -> Row:
    if len(rows) == 1:
        return rows[0]
    values = np.stack([row.values for row in rows])
    present = np.logical_or.reduce([row.present for row in rows])
    known = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[known] = _COMBINE[combine](values[:, known], axis=0)
    return Row(result, present)
