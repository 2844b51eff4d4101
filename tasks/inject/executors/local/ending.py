"""What faults have in common that end the processes of a service, which the stack's supervisor starts again."""

from __future__ import annotations

import signal
from typing import TypeVar

from tasks.inject.errors import FaultError
from tasks.inject.executor import RestartParameters
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep
from tasks.inject.probe import Probe
from tasks.system.process import ProcessId, end_all

P = TypeVar("P", bound=RestartParameters)


class EndProcesses(LocalExecutor[P]):
    """Sends ``signals`` in turn until no process of the service is left."""

    spares_processes = False
    criterion = "fewer than a tenth left"

    def signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        """Return each signal and how long (s) to wait after it."""
        raise NotImplementedError

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return ()

    def apply(self, run_for_s: float) -> str:
        leaving = [ProcessId.of(pid) for pid in self.target.processes()]
        if not leaving:
            raise FaultError(f"{self.target.name}: it has no process to end")
        sent = end_all(leaving, *self.signals())
        if sent is None:
            raise FaultError(f"{self.target.name}: not every process ended")
        return f"signal: {', '.join(number.name for number in sent)}"

    def probe(self) -> Probe:
        self._first = probes.FirstProcesses(self.target)
        return self._first

    def shows_effect(self, before: float, during: float) -> bool:
        return during < 0.1 * before

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return bool(self.target.processes()) and self._first.ports.are_back()
