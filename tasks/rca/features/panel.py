"""Metrics as a numeric panel for the methods that learn a model from them: no gaps, no constants, no units, no names.

The columns come in an order made from their (standardised) content, so a method whose arithmetic depends on the order
of columns, or that draws random numbers per column, gives the same answer however services and columns are named or
arranged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.features.silence import fill_silence, find_silence
from tasks.rca.method import MethodError
from tasks.rca.view import CaseView, column_names

_ORDER_DECIMALS = 6


@dataclass(frozen=True)
class Panel:
    """``values``: (rows, columns) float64 without NaN, each column with mean 0 and population standard deviation 1.

    ``columns``: (service, metric) of each column. ``abnormal``: (rows,) bool, True from the inject time on. ``sli``:
    (rows,) standardised latency that users saw; None without samples or where it never moved. ``ticks``: (rows,)
    number of the sampling step of each row; rows are adjacent where it grows by 1, else a hole is between them.
    """

    values: np.ndarray
    columns: tuple[tuple[str, str], ...]
    abnormal: np.ndarray
    sli: np.ndarray | None
    ticks: np.ndarray

    @property
    def services(self) -> tuple[str, ...]:
        """The service of each column."""
        return tuple(service for service, _ in self.columns)

    def scores(self, values: np.ndarray) -> pd.Series:
        """Index one score per column as :meth:`tasks.rca.method.Ranking.of_metrics` takes them."""
        index = pd.MultiIndex.from_tuples(self.columns, names=["service", "metric"])
        return pd.Series(np.asarray(values, dtype=float), index=index)


def build_panel(view: CaseView, *, min_rows: int = 4) -> Panel:
    """Fill and standardise the metrics of ``view`` and put them in an order made from their content.

    A gap takes the last value before it (the first value after it, at the start); one beside a hole in the recording
    takes a value from its own side of the hole, if there is one. Where a metric's samples stop or begin at the fault
    the gap takes a value far below them (:func:`tasks.rca.features.silence.fill_silence`), so that it shows. Columns
    that never move over both windows, or have no sample, are left out.

    Raises:
        MethodError: fewer than ``min_rows`` rows, or no column that moves.
    """
    rows = len(view.metrics)
    if rows < min_rows:
        raise MethodError(f"{rows} metric rows; this method needs at least {min_rows}")
    ticks = view.ticks()
    abnormal = np.asarray(view.metrics.index >= view.inject_time)
    samples = fill_silence(
        view.metrics.to_numpy(dtype=float), find_silence(view.metrics, abnormal), abnormal, away=-1.0
    )
    values, moves = standardise(fill_gaps(samples, ticks))
    if not moves.any():
        raise MethodError("no metric moves")
    values = values[:, moves]
    names = [name for name, kept in zip(column_names(view.metrics), moves, strict=True) if kept]
    order = np.lexsort(np.round(values[::-1], _ORDER_DECIMALS) + 0.0)
    seen = view.sli.reindex(view.metrics.index).to_numpy(dtype=float)[:, None]
    sli, sli_moves = standardise(fill_gaps(seen, ticks))
    return Panel(
        values=np.ascontiguousarray(values[:, order]),
        columns=tuple(names[i] for i in order),
        abnormal=abnormal,
        sli=sli[:, 0] if sli_moves[0] else None,
        ticks=ticks,
    )


def fill_gaps(values: np.ndarray, ticks: np.ndarray | None = None) -> np.ndarray:
    """Replace every NaN of (rows, columns) by the last sample before it, else the first after it.

    With ``ticks`` (:meth:`tasks.rca.view.CaseView.ticks`) samples between the same two holes come first.
    """
    if ticks is not None and (np.diff(ticks) > 1).any() and np.isnan(values).any():
        part = np.concatenate([[0], np.cumsum(np.diff(ticks) > 1)])
        filled = pd.DataFrame(values).groupby(part).ffill()
        values = filled.groupby(part).bfill().to_numpy()
    return pd.DataFrame(values).ffill().bfill().to_numpy()


def standardise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale columns to mean 0 and standard deviation 1; tell which of them move by more than rounding noise.

    A column that does not move comes back as zeros.
    """
    largest = np.max(np.abs(values), axis=0, initial=0.0)
    known = np.isfinite(largest) & (largest > 0)
    scaled = np.where(known, values, 0.0) / np.where(known, largest, 1.0)
    centred = scaled - scaled.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    moves = known & (spread > RESOLUTION)
    return np.where(moves, centred / np.where(moves, spread, 1.0), 0.0), moves
