"""Find and end the processes that carry out a fault: an environment variable names the journal they work for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tasks.system.process import PROC, start_ticks

MARKER = "RCARENA_FAULT"
"""Environment variable of every process that carries out a fault; its value is the journal file."""
DEAD_MAN_MARKER = "RCARENA_DEAD_MAN"
"""Environment variable of the dead-man timer of an injection; its value is the journal file."""


def marked_processes(marker: str, journals: Path) -> dict[int, Path]:
    """Return pid -> journal file for each process but this one that carries ``marker``.

    ``journals`` is one journal file, or a directory that stands for every file in it.
    """
    prefix = f"{marker}=".encode()
    found: dict[int, Path] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            if not variable.startswith(prefix):
                continue
            journal = Path(os.fsdecode(variable.removeprefix(prefix)))
            if journals in (journal, journal.parent) and start_ticks(int(entry.name)) is not None:
                found[int(entry.name)] = journal
    return found


def end_marked(marker: str, journals: Path, grace_s: float = 0, timeout_s: float = 5) -> bool:
    """End every marked process: SIGTERM, and SIGKILL after ``grace_s``. True when none is left."""
    start = time.monotonic()
    while left := marked_processes(marker, journals):
        elapsed = time.monotonic() - start
        if elapsed > timeout_s:
            return False
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if elapsed < grace_s else signal.SIGKILL)
        time.sleep(0.02)
    return True
