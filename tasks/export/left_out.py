"""What of other people's answers and files could not be used, counted, so that the case can say it."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter

log = logging.getLogger(__name__)

LARGEST_INT64 = 2**63 - 1
LARGEST_INT32 = 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")


class LeftOut:
    """Counts what was left out, by place (a file, a query) and kind; the first of each is logged."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._problems: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def count(self, place: str, what: str, times: int = 1) -> None:
        """``what``: one of them, such as "a line that is not JSON"."""
        if times <= 0:
            return
        if (place, what) not in self._counts:
            log.warning("%s: %s is left out", place, what)
        self._counts[place, what] += times

    def problem(self, text: str) -> None:
        """Something else that may be missing, in one line."""
        self._problems.setdefault(text)

    def note(self, text: str) -> None:
        """Something worth knowing of which nothing is missing."""
        self._notes.setdefault(text)

    def __len__(self) -> int:
        """How many pieces were left out."""
        return self._counts.total()

    @property
    def problems(self) -> list[str]:
        """One line per place and kind."""
        counted = [f"{place}: left out {times} x {what}" for (place, what), times in self._counts.items()]
        return [*self._problems, *counted]

    @property
    def notes(self) -> list[str]:
        return list(self._notes)


def whole_number(value: object) -> int | None:
    """A JSON number or text as a whole number; None for anything else (a fraction, a boolean, text with letters)."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else None
    return None


def real_number(value: object) -> float | None:
    """A JSON number, or text such as "1.5", "NaN" or "+Inf"; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (not value or "_" in value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def finite_number(value: object) -> float | None:
    """``real_number`` without infinities and NaN."""
    number = real_number(value)
    return number if number is not None and math.isfinite(number) else None
