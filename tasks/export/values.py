"""Reads numbers in JSON answers and files, written as numbers or as text."""

from __future__ import annotations

import math
import re

LARGEST_INT64 = 2**63 - 1
LARGEST_INT32 = 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")


def whole_number(value: object) -> int | None:
    """Return a JSON number or text as a whole number; None for a fraction, a boolean or text with letters."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else None
    return None


def real_number(value: object) -> float | None:
    """Return a JSON number, or text such as "1.5", "NaN" or "+Inf", as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (not value or "_" in value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def finite_number(value: object) -> float | None:
    """Return ``real_number`` without infinities and NaN."""
    number = real_number(value)
    return number if number is not None and math.isfinite(number) else None
