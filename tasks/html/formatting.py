"""Formats numbers with three significant digits and a suitable unit prefix."""

from __future__ import annotations

import math

from tasks.text import short_p, two_decimals

_PREFIXES = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}
_SMALL_PREFIX_UNITS = {"s"}
_LARGE_PREFIX_UNITS = {"bytes": "B", "bytes/s": "B/s"}
PREFIXED_UNITS = _SMALL_PREFIX_UNITS | set(_LARGE_PREFIX_UNITS)

ABSENT = "–"


def quantity(value: float | None, unit: str = "") -> str:
    """Format a value with its unit: ``251 ms``, ``1.23 GB``; an en dash for a missing value."""
    if value is None or math.isnan(value):
        return ABSENT
    if unit in _LARGE_PREFIX_UNITS:
        return _prefixed(value, _LARGE_PREFIX_UNITS[unit], lowest=0)
    if unit in _SMALL_PREFIX_UNITS:
        return _prefixed(value, unit, lowest=-3, highest=0)
    shown = "" if unit == "ratio" else unit
    return f"{_digits(value)} {shown}".rstrip()


def score(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else two_decimals(value)


def seconds(value: float | None) -> str:
    """Format seconds without a prefix, to compare rows of a column: ``0.012``, ``12.3``."""
    return ABSENT if value is None or math.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def p_value(p: float) -> str:
    """Format a p value: ``= 0.012`` or ``< 0.0001``."""
    shown = short_p(p)
    return shown if shown.startswith("<") else f"= {shown}"


def difference(value: float) -> str:
    """Format the difference of two scores: ``+0.12``, ``−0.12``."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def short_difference(value: float) -> str:
    """Format a difference for a cell of a large table: ``.12``, ``−.12``, ``0``, ``1``."""
    text = f"{round(value, 2) + 0.0:.2f}".replace("-", "−").replace("0.", ".")
    return {".00": "0", "1.00": "1", "−1.00": "−1"}.get(text, text)


def _prefixed(value: float, unit: str, *, lowest: int, highest: int = 4) -> str:
    if value == 0 or math.isinf(value):
        return f"{value:g} {unit}"
    exponent = min(highest, max(lowest, math.floor(math.log10(abs(value)) / 3)))
    return f"{_digits(value / 1000.0**exponent)} {_PREFIXES[exponent]}{unit}"


def _digits(value: float) -> str:
    """Format three significant digits, without an exponent between 0.001 and a million."""
    if value == 0 or math.isinf(value) or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
