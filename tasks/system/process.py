"""Processes of this machine, from ``/proc``, by an identity that survives pid reuse."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

import tasks

PROC = Path("/proc")


class ProcessStat(NamedTuple):
    """State letter (``R``, ``S``, ``T`` …) and start time in clock ticks since boot."""

    state: str
    start_ticks: int


class ProcessId(BaseModel):
    """A pid of this machine's root PID namespace plus its start time in clock ticks since boot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Raises ProcessLookupError when ``pid`` does not run."""
        ticks = start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(pid)
        return cls(pid=pid, start_ticks=ticks)

    @classmethod
    def current(cls) -> ProcessId:
        return cls.of(os.getpid())

    @property
    def alive(self) -> bool:
        return start_ticks(self.pid) == self.start_ticks

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal unless the process has ended."""
        if self.alive:
            try:
                os.kill(self.pid, signal_number)
            except ProcessLookupError:
                return

    def wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def end_all(processes: Sequence[ProcessId], *signals: tuple[signal.Signals, float]) -> list[signal.Signals] | None:
    """Send each signal in turn until no process is left, waiting so many seconds after each.

    Return the signals that were sent; None if a process lives on.
    """
    sent = []
    for number, patience_s in signals:
        for each in processes:
            each.kill(number)
        sent.append(number)
        deadline = time.monotonic() + patience_s
        if all(each.wait_gone(max(0.0, deadline - time.monotonic())) for each in processes):
            return sent
    return None


def python_path() -> str:
    """Return the PYTHONPATH with which a child can import what this process can, packages of plugins too."""
    return os.pathsep.join([str(Path(str(tasks.__file__)).resolve().parents[1]), *filter(None, sys.path)])


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def machine_id() -> str:
    """Identify where pids and monotonic times mean the same: one boot and one PID namespace (a pod has its own)."""
    return f"{boot_id()}/{(PROC / 'self/ns/pid').stat().st_ino}"


def read_stat(pid: int, proc: Path = PROC) -> ProcessStat | None:
    """Read ``/proc/PID/stat``. Return None when the process is gone; a zombie is still there."""
    fields = read_text(pid, "stat", proc).rpartition(")")[2].split()
    return ProcessStat(fields[0], int(fields[19])) if fields else None


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Return the start time of ``pid``, None when it does not run (a zombie does not)."""
    stat = read_stat(pid, proc)
    return None if stat is None or stat.state in "ZX" else stat.start_ticks


def age_s(pid: int, proc: Path = PROC) -> float | None:
    """Return for how long (s) ``pid`` has run, None when it does not."""
    ticks = start_ticks(pid, proc)
    if ticks is None:
        return None
    up_s = float((proc / "uptime").read_text(encoding="ascii").split()[0])
    return up_s - ticks / os.sysconf("SC_CLK_TCK")


def process_state(pid: int) -> str | None:
    """Return the state letter of ``pid``, None when it is gone."""
    stat = read_stat(pid)
    return stat.state if stat else None


def process_name(pid: int) -> str:
    """Return the command name of ``pid``, empty when it is gone."""
    return read_text(pid, "comm").strip()


def read_text(pid: int, name: str, proc: Path = PROC) -> str:
    """Read a text file of ``/proc/PID``; return an empty string when the process is gone."""
    try:
        return (proc / str(pid) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
