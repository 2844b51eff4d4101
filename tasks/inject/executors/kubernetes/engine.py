"""Faults of the engine itself: its processes stopped or killed by the node's agent."""

from __future__ import annotations

from typing import TypeVar

from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes, probes
from tasks.inject.executors.kubernetes.node_fault import NodeFaultExecutor
from tasks.inject.probe import Probe

P = TypeVar("P", bound=FaultParameters)
STOPPED = 0.1
"""An engine that generates less than this share of its earlier token rate counts as stopped."""


class EngineExecutor(NodeFaultExecutor[P]):
    """Acts on the engine's processes inside the replica's container; the container goes on."""

    criterion = "fewer than a tenth of the tokens before; an idle engine shows none"
    roles = frozenset({"replica"})

    def amount(self) -> dict[str, float]:
        return {}

    def probe(self) -> Probe:
        return gpu_probes.generated_tokens(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return before > 0 and during < STOPPED * before


class EnginePause(EngineExecutor[P]):
    """Sends SIGSTOP to the engine's processes, SIGCONT at the end: the container, Ray and the replica's HTTP side go
    on. When the pause outlasts the replica's health checks, Ray restarts the replica."""

    action = "engine-pause"
    group = "engine-stall"


class EngineKill(EngineExecutor[P]):
    """Sends SIGKILL to the engine's processes; Ray restarts the replica."""

    action = "engine-kill"
    spares_processes = False

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return super().is_normal(before, during, after) and probes.ready_pods(self.target) > 0
