"""How far each column strays, after the fault, from where it was before: the measure under nsigma, BARO and their kin.

A column's spread in the normal window is the unit, so the unit of the metric never matters. Where there is no spread to
divide by, these steps keep the column in the race without letting it win by default:

* spread 0 by the quartiles but not by the standard deviation (a column that is mostly constant): the standard
  deviation, scaled so that both agree on normally distributed values;
* constant in the normal window: a departure scores sqrt(n) for n quiet samples. That is about what it would score had
  the same departure been seen once among them: the longer the quiet, the more a departure says;
* variation below ``RESOLUTION`` of the largest value is rounding noise, not variation.

Up to ``FEW_SAMPLES`` normal samples their spread is a guess: two that are nearly equal would turn any change into
thousands of spreads. So n of them vouch for about sqrt(8 n) spreads: above that a score hardly grows (by 5 % at most,
which keeps the order of columns with equally many samples), and a single sample never gives 3. In other words the
spread that a change is measured in is, at the least, that change times 1 / sqrt(8 n).

A column whose samples stop or begin at the fault has no distance: :func:`change_scores` takes
:mod:`tasks.rca.features.silence`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from tasks.rca.features.silence import silence_of
from tasks.rca.method import MethodError

Centre = Literal["mean", "median"]
Direction = Literal["both", "up"]

RESOLUTION = 1e-9
FEW_SAMPLES = 5
_IQR_OF_STANDARD_NORMAL = 1.3489795003921634


def deviation_scores(
    normal: pd.DataFrame, abnormal: pd.DataFrame, *, centre: Centre, direction: Direction = "both"
) -> pd.Series:
    """Return the largest deviation of each column of ``abnormal`` from ``normal``, in units of the normal spread.

    ``centre``: ``mean`` divides by the population standard deviation, ``median`` by the interquartile range.
    ``direction``: ``both`` counts rises and falls, ``up`` only rises. NaN for a column without a sample in one window.

    Raises:
        MethodError: a window has no sample at all.
    """
    require_windows(normal, abnormal)
    before, after = np.ascontiguousarray(normal.to_numpy().T), np.ascontiguousarray(abnormal.to_numpy().T)
    count = np.count_nonzero(~np.isnan(before), axis=1)
    with np.errstate(all="ignore"):
        resolution = RESOLUTION * np.maximum(_largest(before, "both"), _largest(after, "both"))
        if centre == "median":
            low, middle, high = _quantiles(before, count, (0.25, 0.5, 0.75))
            spread = high - low
            still = ~(spread > resolution)
            spread[still] = _moments(before[still], count[still])[1] * _IQR_OF_STANDARD_NORMAL
        else:
            middle, spread = _moments(before, count)
        away = _largest(after - middle[:, None], direction)
        varied = credible(away / spread, count)
        quiet = np.where(np.abs(away) > resolution, np.sign(away) * np.sqrt(count), 0.0)
        scores = np.where(spread > resolution, varied, quiet)
    scores[np.isnan(away)] = np.nan
    return pd.Series(scores, index=normal.columns)


def change_scores(
    normal: pd.DataFrame, abnormal: pd.DataFrame, *, centre: Centre, direction: Direction = "both"
) -> pd.Series:
    """Return the larger of how far each column strays and how surely its samples stopped or began at the fault.

    It takes what :func:`deviation_scores` takes, with columns (service, what is measured), and scores absence by
    :mod:`tasks.rca.features.silence`; in interquartile ranges if ``centre`` is ``median``. With ``direction`` ``up``
    only a beginning counts. NaN for a column without any sample.

    Raises:
        MethodError: a window has no sample at all.
    """
    deviation = deviation_scores(normal, abnormal, centre=centre, direction=direction)
    present = ~np.isnan(np.concatenate([normal.to_numpy(dtype=float), abnormal.to_numpy(dtype=float)]))
    if present.all():
        return deviation
    silence = silence_of(present, normal.columns, len(normal))
    absence = silence.began if direction == "up" else silence.score
    if centre == "median":
        absence = absence / _IQR_OF_STANDARD_NORMAL
    scores = np.where(present.any(axis=0), np.fmax(deviation.to_numpy(), absence), np.nan)
    return pd.Series(scores, index=deviation.index)


def credible(deviation: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Limit ``deviation``, in spreads, to what the ``count`` samples that the spread was estimated from can support.

    It is unchanged up to sqrt(8 count) either way, and for more than ``FEW_SAMPLES``; beyond, it approaches 5 % above
    that.
    """
    few = count <= FEW_SAMPLES
    if not few.any():
        return deviation
    bound = np.sqrt(8.0 * np.maximum(count, 1))
    size = np.abs(deviation)
    bounded = np.sign(deviation) * bound * (1.05 - 0.05 * bound / np.maximum(size, bound))
    return np.where(few & (size > bound), bounded, deviation)


def require_windows(normal: pd.DataFrame, abnormal: pd.DataFrame) -> None:
    """Raise :class:`MethodError` if a window has no sample."""
    for window, name in ((normal, "before"), (abnormal, "after")):
        if window.empty or not np.isfinite(window.to_numpy()).any():
            raise MethodError(f"no metric sample {name} the inject time")


def _largest(values: np.ndarray, direction: Direction) -> np.ndarray:
    """Return the largest value of each row; NaN only if the row has no value."""
    highest = np.fmax.reduce(values, axis=1)
    return highest if direction == "up" else np.maximum(highest, -np.fmin.reduce(values, axis=1))


def _moments(values: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of each row without NaN."""
    sampled = ~np.isnan(values)
    mean = np.sum(values, axis=1, where=sampled) / count
    return mean, np.sqrt(np.sum((values - mean[:, None]) ** 2, axis=1, where=sampled) / count)


def _quantiles(values: np.ndarray, count: np.ndarray, levels: tuple[float, ...]) -> list[np.ndarray]:
    """Return interpolated quantiles of each row without NaN. (NumPy's nanquantile loops over rows in Python.)"""
    ordered = np.sort(values, axis=1)  # NaN last
    quantiles = []
    for level in levels:
        rank = level * np.maximum(count - 1, 0)
        below = np.floor(rank).astype(int)
        above = np.ceil(rank).astype(int)
        low = np.take_along_axis(ordered, below[:, None], axis=1)[:, 0]
        high = np.take_along_axis(ordered, above[:, None], axis=1)[:, 0]
        quantiles.append(low + (high - low) * (rank - below))
    return quantiles
