"""Correlation of series that have gaps."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import RESOLUTION

_MIN_ROWS = 3
_LEAST_VARIANCE = 1e-12


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of each column of ``left`` with each of ``right``, over the rows where both have a
    sample.

    ``left``: (rows, m), ``right``: (rows, n); NaN: no sample. Returns (m, n) in [-1, 1], never NaN: 0 where fewer than
    three rows have both, or where one of the two does not move by more than rounding noise. O(rows x m x n).
    """
    a, b = standardise_samples(left), standardise_samples(right)
    has_a, has_b = (~np.isnan(a)).astype(float), (~np.isnan(b)).astype(float)
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    count = np.maximum(has_a.T @ has_b, 1.0)
    mean_a, mean_b = (a.T @ has_b) / count, (has_a.T @ b) / count
    variance_a = (a**2).T @ has_b / count - mean_a**2
    variance_b = has_a.T @ (b**2) / count - mean_b**2
    known = (count >= _MIN_ROWS) & (np.minimum(variance_a, variance_b) > _LEAST_VARIANCE)
    scale = np.sqrt(np.where(known, variance_a * variance_b, 1.0))
    return np.where(known, np.clip(((a.T @ b) / count - mean_a * mean_b) / scale, -1.0, 1.0), 0.0)


def standardise_samples(values: np.ndarray) -> np.ndarray:
    """Scale each column's samples to mean 0 and standard deviation 1, or to 0 if they move by no more than rounding
    noise. Gaps and infinite values become NaN."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0.0)
    largest = np.max(np.abs(filled), axis=0, initial=0.0)
    shares = filled / np.where(largest > 0, largest, 1.0)
    centred = np.where(known, shares - shares.sum(axis=0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(axis=0) / count)
    scaled = np.where(spread > RESOLUTION, centred / np.where(spread > RESOLUTION, spread, 1.0), 0.0)
    return np.where(known, scaled, np.nan)
