"""Rounds numbers for embedding in pages: four significant digits, NaN as None."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT_DIGITS = 4


def significant(values: Any, digits: int = SIGNIFICANT_DIGITS) -> NDArray[np.float64]:
    """Round ``values`` (any shape) to ``digits`` significant digits; keep NaN and infinities.

    Scales by powers of ten that are exact floats, so that the result prints with few digits.
    """
    array = np.asarray(values, dtype=float)
    magnitude = np.zeros(array.shape)
    rounds = np.isfinite(array) & (array != 0)
    magnitude[rounds] = np.floor(np.log10(np.abs(array[rounds])))
    decimals = digits - 1 - magnitude
    up = 10.0 ** np.clip(decimals, 0, 300)
    down = 10.0 ** np.clip(-decimals, 0, 300)
    return np.round(array * up / down) / up * down


def json_numbers(values: Any, digits: int = SIGNIFICANT_DIGITS) -> list[float | int | None]:
    """Return a 1-D array as JSON numbers: rounded, whole numbers as integers, NaN and infinities as None."""
    rounded = significant(values, digits)
    return [None if not np.isfinite(v) else int(v) if v.is_integer() else v for v in rounded.tolist()]
