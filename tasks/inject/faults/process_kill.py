"""Kill: the processes of the service die at once and are started again by the stack's supervisor."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tasks.deploy.local.process import ProcessId
from tasks.inject.catalogue import Fault, register
from tasks.inject.local import probes
from tasks.inject.local.executor import FaultParameters, LocalFault
from tasks.inject.local.target import FaultError
from tasks.inject.local.undo import UndoStep


class Parameters(FaultParameters):
    healthy_within_s: Annotated[float, Field(gt=0, le=600, description="time for it to be back after the window")] = 120


class _PortsOrFewest(probes.OpenPorts):
    """A quick restart must not hide the outage: the fewest ports count while the fault lasts."""

    def reduce(self, values: Sequence[float]) -> float:
        return min(values)


class LocalProcessKill(LocalFault[Parameters]):
    spares_processes = False

    def undo_steps(self) -> tuple[UndoStep, ...]:
        return ()

    @property
    def settle_s(self) -> float:  # type: ignore[override]
        return self.parameters.healthy_within_s

    def apply(self, run_for_s: float) -> str:
        victims = [ProcessId.of(pid) for pid in self.target.processes()]
        if not victims:
            raise FaultError(f"{self.target.name}: it has no process to kill")
        for victim in victims:
            victim.kill(signal.SIGKILL)
        if not all(victim.wait_gone(2) for victim in victims):
            raise FaultError(f"{self.target.name}: not every process died")
        return "signal: SIGKILL"

    def probe(self) -> probes.Probe:
        return _PortsOrFewest(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during < before

    @property
    def criterion(self) -> str:
        return "fewer ports that listen"

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return after >= max(1, 0.5 * before)


FAULT = register(
    Fault(
        kind="process-kill",
        summary="the processes of the service are killed; the stack's supervisor starts them again",
        parameters=Parameters,
        roles=frozenset({"gateway", "replica"}),
        resources=frozenset({"processes"}),
        probe="TCP ports on which the service listened before and still listens",
        signals="broken streams and errors, restart in the logs, a gap in the target's samples",
        local=LocalProcessKill,
    )
)
