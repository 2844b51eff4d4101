"""One injection as tests start it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.inject.start import ActiveInjection, start_injection
from tasks.injection import PlannedInjection


@dataclass(frozen=True)
class Once:
    injection_id: str
    planned: PlannedInjection
    window_start: datetime

    @property
    def end_at(self) -> datetime:
        return self.planned.interval(self.window_start).end

    def start(self, stack: Any, workspace: Any = None) -> ActiveInjection:
        """On ``stack``, with the journal in ``workspace`` (default: that of the stack)."""
        return start_injection(
            stack.runtime,
            workspace or stack.workspace,
            self.planned,
            injection_id=self.injection_id,
            window_start=self.window_start,
        )


def once(
    injection_id: str,
    kind: str,
    target: str,
    parameters: dict[str, Any] | None = None,
    start_at: datetime | None = None,
    duration_s: float = 25,
) -> Once:
    planned = PlannedInjection(kind=kind, target=target, parameters=parameters or {}, duration_s=duration_s)
    return Once(injection_id, planned, start_at or datetime.now(UTC))
