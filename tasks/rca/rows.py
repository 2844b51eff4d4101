"""Puts what has a time of its own (requests, calls) on the rows of the metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd


def row_of(index: pd.DatetimeIndex, times: np.ndarray) -> np.ndarray:
    """The row in whose step (from the row before to its own time) each time (ns) falls, -1 if in none.

    So nothing that the fault slowed down counts before it, and rows match by time, not by position.
    """
    rows = index.as_unit("ns").asi8
    if not len(rows):
        return np.full(len(times), -1)
    gaps = np.diff(np.unique(rows))
    step = np.median(gaps) if len(gaps) else 1e9
    row = np.searchsorted(rows, times, side="left")
    inside = row < len(rows)
    inside[inside] = rows[row[inside]] - times[inside] < step
    return np.where(inside, row, -1)


def quantile_per_cell(
    row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int], quantile: float
) -> np.ndarray:
    """The quantile (linearly interpolated) of the values of each cell of a table of ``shape``; NaN where none falls.

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
