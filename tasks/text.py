"""Pieces of text that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Return ``allowed: a, b, c``, after the closest match, for an error message."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(choices)}"


def some(names: Iterable[str], most: int = 3, by: str = ", ") -> str:
    """Join the first ``most`` names and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return by.join(listed[:most]) + more


def two_decimals(value: float) -> str:
    """Format a score or a share: ``0.25``; one that would vanish (chance among 1,000 services) by its first digit:
    ``0.001``."""
    return f"{value:.1g}" if 0 < abs(value) < 0.005 else f"{value:.2f}"


def short_p(p: float) -> str:
    """Format a p value for a cell of a table: ``0.012`` or ``< 0.0001``."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
