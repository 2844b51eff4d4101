"""Count what was left out of each signal of an imported case."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.case import SignalName
from tasks.left_out import LeftOut


class CaseLeftOut:
    """The counts of one case, per signal."""

    def __init__(self) -> None:
        self.signals: dict[SignalName, LeftOut] = {}

    def of(self, signal: SignalName) -> LeftOut:
        return self.signals.setdefault(signal, LeftOut())

    def reasons(self, others: Mapping[SignalName, str] | None = None) -> dict[SignalName, str]:
        """Say for each partial signal why: the reason in ``others``, and what was left out."""
        reasons = dict(others or {})
        for signal, left_out in self.signals.items():
            if left_out:
                parts = [reasons[signal]] if signal in reasons else []
                reasons[signal] = "; ".join([*parts, f"left out: {left_out}"])
        return reasons

    def summary(self) -> str:
        """Say in one line what was left out; empty if nothing was."""
        return "; ".join(str(left_out) for left_out in self.signals.values() if left_out)
