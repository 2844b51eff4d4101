"""What of other people's answers and files could not be used, counted, so that the case can say it."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)


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
