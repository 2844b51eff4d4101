"""The steps that restore a service on this machine.

When the stack is dead its namespaces are gone with all that was in them, and a step only removes what lies outside
(sub-groups of cgroups).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Literal

from tasks.deploy.local.layout import WITHHELD
from tasks.inject.errors import FaultError
from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.local.network import (
    egress_residue,
    fabric_residue,
    restore_egress,
    restore_from_fabric,
)
from tasks.inject.executors.local.target import LocalTarget
from tasks.system.marked_processes import MARKER, end_marked, marked_processes

QUOTA_TOLERANCE_CORES = 0.005


class RestoreQuota(UndoStepBase[LocalTarget]):
    """Set the CPU quota back to ``cores`` (None: unlimited)."""

    step: Literal["restore-quota"] = "restore-quota"
    cores: float | None

    def undo(self, target: LocalTarget) -> None:
        if target.cgroup.exists:
            target.cgroup.set_cpu_cores(self.cores)

    def left(self, target: LocalTarget) -> list[str]:
        return quota_residue(target, self.cores)


class LiftMemoryLimit(UndoStepBase[LocalTarget]):
    """Set the memory limit back to ``limit_bytes`` (None: unlimited)."""

    step: Literal["lift-memory-limit"] = "lift-memory-limit"
    limit_bytes: int | None = None

    def undo(self, target: LocalTarget) -> None:
        if target.cgroup.exists:
            target.cgroup.set_memory_limit(self.limit_bytes)

    def left(self, target: LocalTarget) -> list[str]:
        return memory_limit_residue(target, self.limit_bytes)


class KillTracked(UndoStepBase[LocalTarget]):
    """Kill everything in the sub-group ``tracker`` of the service's cgroup and remove it."""

    step: Literal["kill-tracked"] = "kill-tracked"
    tracker: str

    def undo(self, target: LocalTarget) -> None:
        tracker = target.tracker(self.tracker)
        deadline = time.monotonic() + 5
        while tracker.exists:  # a launcher may join between the last kill and the removal
            if not tracker.kill_all(timeout_s=5):
                raise FaultError(f"{target.name}: processes in {self.tracker} do not die")
            try:
                tracker.remove()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise FaultError(f"{target.name}: {self.tracker} cannot be removed: {error.strerror}") from error

    def left(self, target: LocalTarget) -> list[str]:
        exists = target.tracker(self.tracker).exists
        return [f"{target.name}: sub-group {self.tracker} of the cgroup exists"] if exists else []


class EndProcesses(UndoStepBase[LocalTarget]):
    """End the processes that carry the journal's mark: SIGTERM first, so that a shaper sends what it holds."""

    step: Literal["end-processes"] = "end-processes"
    journal: Path

    def undo(self, target: LocalTarget) -> None:
        if not end_marked(MARKER, self.journal, grace_s=1.5):
            raise FaultError(f"{target.name}: processes of {self.journal.stem} do not die")

    def left(self, target: LocalTarget) -> list[str]:
        pids = marked_processes(MARKER, self.journal)
        return [f"{target.name}: process {pid} of {self.journal.stem} runs" for pid in sorted(pids)]


class RestoreEgress(UndoStepBase[LocalTarget]):
    """Remove every queueing discipline and TAP device from the service's link."""

    step: Literal["restore-egress"] = "restore-egress"

    def undo(self, target: LocalTarget) -> None:
        if target.stack_alive:
            restore_egress(target)

    def left(self, target: LocalTarget) -> list[str]:
        return egress_residue(target) if target.stack_alive else []


class ResumeProcesses(UndoStepBase[LocalTarget]):
    """Send SIGCONT to every stopped process of the service."""

    step: Literal["resume-processes"] = "resume-processes"

    def undo(self, target: LocalTarget) -> None:
        deadline = time.monotonic() + 5
        while stopped := stopped_processes(target):
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if time.monotonic() > deadline:
                raise FaultError(f"{target.name}: {len(stopped)} processes stay stopped")
            time.sleep(0.01)

    def left(self, target: LocalTarget) -> list[str]:
        return stopped_residue(target)


class RestoreScrapes(UndoStepBase[LocalTarget]):
    """Let Prometheus reach the service's metrics again, and the exporter report its cgroup."""

    step: Literal["restore-scrapes"] = "restore-scrapes"

    def undo(self, target: LocalTarget) -> None:
        if (file := withheld_file(target)) is not None:
            file.unlink(missing_ok=True)
        if target.stack_alive:
            restore_from_fabric(target)

    def left(self, target: LocalTarget) -> list[str]:
        file = withheld_file(target)
        found = [f"{target.name}: its figures are withheld by {file}"] if file is not None and file.exists() else []
        return found + (fabric_residue(target) if target.stack_alive else [])


LocalStep = (
    RestoreQuota | LiftMemoryLimit | KillTracked | EndProcesses | RestoreEgress | ResumeProcesses | RestoreScrapes
)


def withheld_file(target: LocalTarget) -> Path | None:
    """Return the file that makes the cgroup exporter leave the service out; None in journals of earlier versions."""
    return target.directory / WITHHELD / target.name if target.directory is not None else None


def stopped_processes(target: LocalTarget) -> list[int]:
    return [pid for pid, state in target.all_processes().items() if state == "T"]


def quota_residue(target: LocalTarget, normal_cores: float | None) -> list[str]:
    if not target.stack_alive or not target.cgroup.exists:
        return []
    cores = target.cgroup.cpu_cores()
    same = cores == normal_cores or (
        cores is not None and normal_cores is not None and abs(cores - normal_cores) < QUOTA_TOLERANCE_CORES
    )
    return [] if same else [f"{target.name}: CPU quota is {_shown(cores)}, normal is {_shown(normal_cores)}"]


def memory_limit_residue(target: LocalTarget, normal_bytes: int | None = None) -> list[str]:
    if not target.stack_alive or not target.cgroup.exists:
        return []
    limit = target.cgroup.memory_limit()
    return [] if limit == normal_bytes else [f"{target.name}: memory limit is {limit} bytes, normal is {normal_bytes}"]


def stopped_residue(target: LocalTarget) -> list[str]:
    return [f"{target.name}: process {pid} is stopped" for pid in sorted(stopped_processes(target))]


def _shown(cores: float | None) -> str:
    return "unlimited" if cores is None else f"{cores:g} cores"
