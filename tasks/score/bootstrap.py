"""Percentile bootstrap over cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_CHUNK = 4_000_000


def bootstrap_interval(
    values: np.ndarray, *, samples: int, confidence: float, seed: int, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the mean of each column of ``values`` (cases, columns).

    Every column is resampled with the same cases. Draws depend on ``seed`` and ``label`` only. One case says nothing
    about the spread between cases: its bounds are NaN.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    cases, columns = values.shape
    if cases < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    return _bounds(_resampled_means(values, samples, seed, label), confidence)


def stratified_interval(
    strata: Sequence[np.ndarray], *, samples: int, confidence: float, seed: int, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the mean over ``strata`` of the mean over the cases of each, per column.

    Cases are drawn within their stratum (Efron and Tibshirani, chapter 8). NaN if a stratum has one case.
    """
    if min(len(values) for values in strata) < 2:
        columns = strata[0].shape[1]
        return np.full(columns, np.nan), np.full(columns, np.nan)
    means = [_resampled_means(values, samples, seed, f"{label}|{i}") for i, values in enumerate(strata)]
    return _bounds(np.mean(means, axis=0), confidence)


def _resampled_means(values: np.ndarray, samples: int, seed: int, label: str) -> np.ndarray:
    cases, columns = values.shape
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}|bootstrap|{label}".encode()).digest(), "little"))
    rows_at_once = max(1, _CHUNK // cases)
    means = np.empty((samples, columns))
    for start in range(0, samples, rows_at_once):
        rows = min(rows_at_once, samples - start)
        times_drawn = rng.multinomial(cases, np.full(cases, 1 / cases), size=rows)
        means[start : start + rows] = times_drawn @ values / cases
    return means


def _bounds(means: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
