"""The rows of the metrics as times: their usual step, their holes, and which requests or calls fall on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

STEP_QUANTILE = 0.1
"""A gap is a step if at least this share of all gaps is as short: up to nine gaps in ten may be holes."""
HOLE_STEPS = 1.5
"""Rows further apart than this many steps have a hole between them."""


def usual_gap(gaps: np.ndarray) -> int:
    """Return the step (ns) of samples with these gaps (ns, zeros do not count).

    Holes and lost scrapes only lengthen gaps, so the short ones tell: those up to ``HOLE_STEPS`` times the low
    quantile. Their median is the step, so jitter averages out. 0 if there is no gap.
    """
    gaps = gaps[gaps > 0]
    if not gaps.size:
        return 0
    short = np.partition(gaps, int(STEP_QUANTILE * (gaps.size - 1)))[int(STEP_QUANTILE * (gaps.size - 1))]
    return int(np.median(gaps[gaps <= HOLE_STEPS * short]))


def row_times(index: pd.Index | pd.Series) -> np.ndarray:
    """Return times as ns since the epoch."""
    return pd.DatetimeIndex(index).as_unit("ns").asi8


def step_of(index: pd.Index) -> int:
    """Return the step (ns) of rows at these times; 0 without two different ones."""
    return usual_gap(np.diff(np.unique(row_times(index))))


def ticks_of(index: pd.Index, step_ns: int | None = None) -> np.ndarray:
    """Return (rows,) the number of the sampling step of each row, from 0: the next row is 1 later, more after a hole.

    ``step_ns``: the step, by default the usual gap between the rows.
    """
    rows = row_times(index)
    step = step_ns or step_of(index) or 1
    gaps = np.maximum(1, np.rint(np.diff(rows) / step).astype(np.int64))
    return np.concatenate([np.zeros(min(len(rows), 1), dtype=np.int64), np.cumsum(gaps)])


def with_past(ticks: np.ndarray, lags: int) -> np.ndarray:
    """Return the positions of the rows that have their ``lags`` steps before them, without a hole."""
    if lags == 0:
        return np.arange(len(ticks))
    return np.flatnonzero(ticks[lags:] - ticks[:-lags] == lags) + lags if len(ticks) > lags else np.empty(0, dtype=int)


def too_few_rows(ticks: np.ndarray, lags: int, least: int, method: str) -> str:
    """Return what is wrong if fewer than ``least`` rows have their ``lags`` steps before them; empty if nothing is."""
    usable = len(with_past(ticks, lags))
    if usable >= least:
        return ""
    if usable == max(0, len(ticks) - lags):
        return f"{len(ticks)} metric rows; {method} needs at least {least + lags}"
    return (
        f"{usable} of {len(ticks)} metric rows have {lags} steps before them without a hole; {method} needs at least "
        f"{least}"
    )


def row_of(index: pd.DatetimeIndex, times: np.ndarray, step_ns: int | None = None) -> np.ndarray:
    """Return the row in whose step (from the row before to its own time) each time (ns) falls, -1 if in none.

    The step of a row after a hole, and of the first, is the usual one (``step_ns``) before its time. So nothing that
    the fault slowed down counts before it, and rows match by time, not by position.
    """
    rows = row_times(index)
    if not len(rows):
        return np.full(len(times), -1)
    step = step_ns or step_of(index) or 1_000_000_000
    begins = rows - step
    begins[1:] = np.where(np.diff(rows) <= HOLE_STEPS * step, rows[:-1], begins[1:])
    row = np.searchsorted(rows, times, side="left")
    inside = row < len(rows)
    inside[inside] = times[inside] > begins[row[inside]]
    return np.where(inside, row, -1)


def quantile_per_cell(
    row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int], quantile: float
) -> np.ndarray:
    """Return the quantile (linearly interpolated) of the values in each cell of a table of ``shape``; NaN in an empty
    one.

    A value with ``row`` or ``column`` -1 falls nowhere.
    """
    inside = (row >= 0) & (column >= 0)
    cell, values = row[inside] * shape[1] + column[inside], values[inside]
    ordered = values[np.lexsort((values, cell))]
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    filled = np.flatnonzero(count)
    count = count[filled]
    first = np.cumsum(count) - count
    position = quantile * (count - 1)
    below = np.floor(position).astype(np.int64)
    low, high = ordered[first + below], ordered[first + np.minimum(below + 1, count - 1)]
    table = np.full(shape[0] * shape[1], np.nan)
    table[filled] = low + (high - low) * (position - below)
    return table.reshape(shape)
