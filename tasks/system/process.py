"""Processes by an identity that survives pid reuse."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict


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
        """Signal it if it still is the same process."""
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


def start_ticks(pid: int) -> int | None:
    """Start time of ``pid``, None when it does not run (a zombie counts as not running)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
