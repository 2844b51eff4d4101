"""Counts what of other people's answers and files could not be used, so that a case can say it."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

log = logging.getLogger(__name__)


class LeftOut:
    """Counts by place (a file, a query) and kind; further problems and notes in one line each.

    ``sampled``: so much was left out on purpose that how many there are means nothing.
    """

    def __init__(self) -> None:
        self.sampled = False
        self._counts: Counter[tuple[str, str]] = Counter()
        self._problems: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def count(self, place: Path | str, what: str, times: int = 1) -> None:
        """Add ``times`` (0: nothing) pieces. ``what`` is one of them, such as "a line that is not JSON"."""
        if times <= 0:
            return
        place = Path(place).name if isinstance(place, Path) else place
        if (place, what) not in self._counts:
            log.debug("%s: %s is left out", place, what)
        self._counts[place, what] += int(times)

    def problem(self, text: str) -> None:
        """Add something else that may be missing, in one line."""
        self._problems.setdefault(text)

    def note(self, text: str) -> None:
        """Add something worth knowing although nothing is missing."""
        self._notes.setdefault(text)

    def update(self, other: LeftOut) -> None:
        """Add everything that ``other`` holds."""
        self.sampled |= other.sampled
        self._counts.update(other._counts)
        self._problems.update(other._problems)
        self._notes.update(other._notes)

    def __len__(self) -> int:
        """Return how many pieces were left out."""
        return self._counts.total()

    @property
    def problems(self) -> list[str]:
        """One line per place and kind: ``spans.json: left out 2 x a line that is not JSON``."""
        counted = [f"{place}: left out {times} x {what}" for (place, what), times in self._counts.items()]
        return [*self._problems, *counted]

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def __str__(self) -> str:
        """Return the counts in one line: ``logs.csv: 3 lines without a time, 1 row of no service; traces.csv: …``."""
        by_place: dict[str, list[str]] = {}
        for (place, what), times in self._counts.items():
            _, thing, *why = what.split(" ", 2)
            things = thing if times == 1 or thing.endswith("s") else f"{thing}s"
            by_place.setdefault(place, []).append(" ".join((str(times), things, *why)))
        return "; ".join(f"{place}: {', '.join(parts)}" for place, parts in by_place.items())
