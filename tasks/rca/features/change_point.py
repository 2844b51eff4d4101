"""When a recording changes: Bayesian online change-point detection on latencies, errors and the SLI.

Sources: Adams and MacKay, "Bayesian Online Changepoint Detection", arXiv 0710.3742, 2007 (the recursion over run
lengths); Pham, Ha, Zhang, "BARO: Robust Root Cause Analysis for Microservices via Multivariate Bayesian Online Change
Point Detection", FSE 2024 (many metrics at once, those of latency and errors, and the first change is the fault).

A recording is a chain of runs: at each row a new run begins with a constant probability, the hazard. Within a run each
column is normally distributed with unknown mean and variance, under the conjugate Normal-Gamma prior, so the predictive
distributions are Student-t and the evidence of a run has a closed form in its sums. Columns are independent given the
run: unlike a full covariance this asks for no more rows than columns. Three things are done so that this model does not
see changes that are not there, each measured on differences between rows, which a lasting change hardly touches:

* a column is centred at its median, divided by its noise and cut off at ``CLIP`` noises: an outlier weighs little, a
  step keeps its place;
* neighbouring rows are not independent (a rate over five seconds, taken every second): with autocorrelation time tau a
  row counts as 1/tau of an observation;
* columns are not independent of each other either: the evidence of k columns counts as that of the effective number.

Only the ``MAX_COLUMNS`` columns that stray furthest for long are looked at: a fault that shows in few of a thousand
columns is not outvoted. Cost: O(rows x run lengths x ``MAX_COLUMNS``), at most ``MAX_RUNS`` run lengths at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import gammaln, logsumexp

from tasks.rca.features.golden_signals import golden_signal
from tasks.rca.features.rows import ticks_of, with_past

HAZARD = 1e-3
"""A new run every thousand rows: a recording of some minutes is not expected to change by itself."""
THRESHOLD = 0.9
"""The posterior probability of a change from which on one is reported."""
SIZE_SHARE = 0.5
"""A change smaller than this share of the largest is taken for drift, not for the fault."""
CLIP = 5.0
MAX_COLUMNS = 10
MAX_RUNS = 500
MIN_ROWS = 8

_PRIOR_MEAN_ROWS = 0.1  # a new level may be about three noises away
_PRIOR_SHAPE = 1.0  # the variance is expected to be that of the noise, with the weight of two rows
_PRUNE = 40.0  # run lengths less probable than the best by this many nats are dropped
_RESOLUTION = 1e-9
_MAX_LAG = 32
_ROWS_PER_LAG = 12
_LEAST_NEIGHBOURS = 4  # rows with the row before; with fewer the rows count as one sequence
_MAD_OF_STANDARD_NORMAL = 0.6744897501960817


@dataclass(frozen=True)
class Detection:
    """``time``: the first row after the change; None if there is none. ``probability`` of any change. ``changes``: the
    first row after each change that is not dwarfed by another, in order of time; ``time`` is the first."""

    time: pd.Timestamp | None
    probability: float
    changes: tuple[pd.Timestamp, ...] = ()


def detect_change(metrics: pd.DataFrame, sli: pd.Series) -> Detection:
    """Find when the recording changes.

    ``metrics``: one row per step, columns (service, metric), NaN where there is no sample; ``sli``: what users saw, on
    the same rows (on its own rows if there are no metrics). The latency and error metrics and the SLI are used; all
    metrics if none of those moves. Among several changes the fault is the first, as in BARO, that is not dwarfed by
    another (``SIZE_SHARE``): the recovery is a later one, and a small drift before the fault is not taken for it.
    """
    index = sli.index if metrics.empty else metrics.index
    every = metrics.to_numpy(dtype=float)
    symptoms = [
        golden_signal(name) in ("latency", "errors") for name in metrics.columns.get_level_values(1).astype(str)
    ]
    values = sli.reindex(index).to_numpy(dtype=float)[:, None]
    if not metrics.empty:
        values = np.hstack([every[:, symptoms], values])
    ticks = ticks_of(index)
    columns = prepare(values, ticks)
    if columns.values.shape[1] == 0:
        columns = prepare(every, ticks)
    changes, probability = find_changes(columns)
    rows = _large(columns.values, changes) if probability >= THRESHOLD and changes else []
    times = tuple(index[row] for row in rows)
    return Detection(times[0] if times else None, probability, times)


@dataclass(frozen=True)
class Columns:
    """The input of the detector. ``values``: (rows, columns) in units of each column's noise, with a median of 0.

    ``row_weight``: how many independent observations a row is worth; ``column_share``: what share of the columns is
    independent.
    """

    values: np.ndarray
    row_weight: float
    column_share: float


def prepare(values: np.ndarray, ticks: np.ndarray | None = None) -> Columns:
    """(rows, columns) with NaN as the detector takes them; no column if there are few rows or nothing moves.

    ``ticks``: (rows,) number of the sampling step of each row (default: no hole between rows). The noise and what rows
    have in common are measured on rows without a hole between them.
    """
    rows = len(values)
    if ticks is None or len(with_past(ticks, 1)) < _LEAST_NEIGHBOURS:
        ticks = np.arange(rows)
    if rows < MIN_ROWS or values.shape[1] == 0:
        return Columns(np.empty((rows, 0)), 1.0, 1.0)
    filled = pd.DataFrame(values).ffill().bfill().fillna(0.0).to_numpy()
    largest = np.max(np.abs(filled), axis=0)
    scaled = filled / np.where(largest > 0, largest, 1.0)
    centred = scaled - np.median(scaled, axis=0)
    lags = [1]
    while 2 * lags[-1] <= min(rows // _ROWS_PER_LAG, _MAX_LAG) and len(with_past(ticks, 4 * lags[-1] - 1)) >= rows // 2:
        lags.append(2 * lags[-1])
    noise = np.sqrt(_variance_between_rows(centred, ticks, lags))
    noise = np.where(noise > _RESOLUTION, noise, centred.std(axis=0))
    moves = noise > _RESOLUTION
    clipped = np.clip(centred[:, moves] / noise[moves], -CLIP, CLIP)
    strays = _moving_means(clipped, lags[-1]).var(axis=0)
    kept = np.ascontiguousarray(clipped[:, np.argsort(-strays, kind="stable")[:MAX_COLUMNS]])
    if kept.shape[1] == 0:
        return Columns(kept, 1.0, 1.0)
    return Columns(kept, 1 / _autocorrelation_time(kept, ticks, lags), _independent_share(kept, ticks))


def find_changes(columns: Columns) -> tuple[list[int], float]:
    """Return the rows at which a new run begins in the most probable chain of runs, and the probability of any change.

    The recursion is that of Adams and MacKay; a run is named by the row at which it began instead of its length. Beside
    the sum over all chains it keeps the best one.
    """
    values = columns.values
    rows, width = values.shape
    if width == 0:
        return [], 0.0
    evidence = _RunEvidence(columns)
    survive, renew = np.log1p(-HAZARD), np.log(HAZARD)
    total, best = np.zeros(rows + 1), np.zeros(rows + 1)  # log probability of the first t rows
    best_start = np.zeros(rows + 1, dtype=int)
    starts = np.empty(0, dtype=int)
    unchanged = 0.0
    for end in range(1, rows + 1):
        starts = np.append(starts, end - 1)
        run = evidence.of_runs(starts, end) + (end - 1 - starts) * survive + np.where(starts > 0, renew, 0.0)
        joint = total[starts] + run
        total[end] = logsumexp(joint)
        chosen = np.argmax(best[starts] + run)
        best[end], best_start[end] = (best[starts] + run)[chosen], starts[chosen]
        unchanged = joint[0]
        starts = starts[_probable(joint)]
    changes = []
    start = best_start[rows]
    while start > 0:
        changes.append(int(start))
        start = best_start[start]
    return changes[::-1], float(-np.expm1(unchanged - total[rows]))


def _probable(joint: np.ndarray) -> np.ndarray:
    """Choose the runs to keep: those not much less probable than the best, at most ``MAX_RUNS``, and the first."""
    floor = joint.max() - _PRUNE
    if len(joint) > MAX_RUNS:
        floor = max(floor, np.partition(joint, -MAX_RUNS)[-MAX_RUNS])
    keep = joint >= floor
    keep[0] = True
    return keep


class _RunEvidence:
    """Log evidence of any run of rows, from running sums (values are bounded, so the sums lose no precision)."""

    def __init__(self, columns: Columns) -> None:
        rows, width = columns.values.shape
        self._share, self._weight = columns.column_share, columns.row_weight
        start = np.zeros((1, width))
        self._sums = np.vstack([start, np.cumsum(columns.values, axis=0)])
        self._squares = np.vstack([start, np.cumsum(columns.values**2, axis=0)])
        observations = self._weight * np.arange(rows + 1)
        self._mean_rows = _PRIOR_MEAN_ROWS + observations
        self._shape = _PRIOR_SHAPE + observations / 2
        self._constant = width * (
            gammaln(self._shape)
            - gammaln(_PRIOR_SHAPE)
            + _PRIOR_SHAPE * np.log(_PRIOR_SHAPE)
            + 0.5 * np.log(_PRIOR_MEAN_ROWS / self._mean_rows)
            - observations / 2 * np.log(2 * np.pi)
        )

    def of_runs(self, starts: np.ndarray, end: int) -> np.ndarray:
        """Return the evidence of the runs from each of ``starts`` to before row ``end``."""
        length = end - starts
        sums = self._weight * (self._sums[end] - self._sums[starts])
        squares = self._weight * (self._squares[end] - self._squares[starts])
        rate = _PRIOR_SHAPE + 0.5 * (squares - sums**2 / self._mean_rows[length][:, None])
        return self._share * (self._constant[length] - self._shape[length] * np.log(rate).sum(axis=1))


def _large(values: np.ndarray, changes: list[int]) -> list[int]:
    bounds = np.array([0, *changes, len(values)])
    means = np.add.reduceat(values, bounds[:-1], axis=0) / np.diff(bounds)[:, None]
    sizes = np.sqrt(np.mean(np.diff(means, axis=0) ** 2, axis=1))
    return [row for row, size in zip(changes, sizes, strict=True) if size >= SIZE_SHARE * sizes.max()]


def _moving_means(values: np.ndarray, width: int) -> np.ndarray:
    sums = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    return (sums[width:] - sums[:-width]) / width


def _variance_between_rows(values: np.ndarray, ticks: np.ndarray, lags: list[int]) -> np.ndarray:
    """Return the variance of each column within a run: the most that rows some steps apart differ."""
    apart = ((with_past(ticks, lag), lag) for lag in lags)
    return np.max([_robust_variance(values[now] - values[now - lag]) / 2 for now, lag in apart], axis=0)


def _autocorrelation_time(values: np.ndarray, ticks: np.ndarray, lags: list[int]) -> float:
    """Return by how much the means of neighbouring blocks differ more than those of independent rows, for the median
    column."""
    between_blocks = []
    for lag in lags:
        means = _moving_means(values, lag)
        first = with_past(ticks, 2 * lag - 1) - (2 * lag - 1)  # of two blocks side by side
        between_blocks.append(lag * _robust_variance(means[first + lag] - means[first]) / 2)
    between_rows = _variance_between_rows(values, ticks, lags)
    ratio = np.max(between_blocks, axis=0) / np.where(between_rows > 0, between_rows, 1.0)
    return float(np.median(np.maximum(ratio, 1.0)))


def _independent_share(values: np.ndarray, ticks: np.ndarray) -> float:
    """Return the effective number of independent columns, from the correlations of their changes, as a share of all."""
    now = with_past(ticks, 1)
    steps = values[now] - values[now - 1]
    rows, width = steps.shape
    spread = steps.std(axis=0)
    scaled = (steps - steps.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    correlations = scaled.T @ scaled / rows
    np.fill_diagonal(correlations, 0.0)
    squared = np.sum(correlations**2) / max(width * (width - 1), 1) - 1 / rows  # less what chance gives
    return 1 / (1 + (width - 1) * max(squared, 0.0))


def _robust_variance(differences: np.ndarray) -> np.ndarray:
    return (np.median(np.abs(differences), axis=0) / _MAD_OF_STANDARD_NORMAL) ** 2
