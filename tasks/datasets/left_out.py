"""What a reader did not take over, counted per file and reason: it is said, never dropped without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tasks.case import SignalName


class Item(NamedTuple):
    """``thing`` in the singular (``row``), ``why`` as the rest of the phrase (``without a usable time``)."""

    file: str
    thing: str
    why: str


class LeftOut:
    """Counts of one signal of one case."""

    def __init__(self) -> None:
        self._counts: Counter[Item] = Counter()

    def add(self, file: Path | str, thing: str, why: str, number: int = 1) -> None:
        """``number`` may be 0: then nothing is said."""
        if number > 0:
            self._counts[Item(Path(file).name, thing, why)] += int(number)

    def update(self, other: LeftOut) -> None:
        self._counts.update(other._counts)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """``logs.csv: 3 lines with another number of cells, 1 row without a usable time; traces.csv: …``."""
        by_file: dict[str, list[str]] = {}
        for (file, thing, why), number in self._counts.items():
            by_file.setdefault(file, []).append(f"{number} {thing}{'s' if number != 1 else ''} {why}")
        return "; ".join(f"{file}: {', '.join(parts)}" for file, parts in by_file.items())


class CaseLeftOut:
    """The counts of one case, per signal."""

    def __init__(self) -> None:
        self.signals: dict[SignalName, LeftOut] = {}

    def of(self, signal: SignalName) -> LeftOut:
        return self.signals.setdefault(signal, LeftOut())

    def reasons(self, others: Mapping[SignalName, str] | None = None) -> dict[SignalName, str]:
        """Why each signal is partial: ``others`` and what was left out of it."""
        reasons = dict(others or {})
        for signal, left_out in self.signals.items():
            if left_out:
                parts = [reasons[signal]] if signal in reasons else []
                reasons[signal] = "; ".join([*parts, f"left out: {left_out}"])
        return reasons

    def summary(self) -> str:
        """One line; empty if nothing was left out."""
        return "; ".join(str(left_out) for left_out in self.signals.values() if left_out)
