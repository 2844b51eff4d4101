"""The processes of this machine that carry out faults: each is marked with the journal that it works for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARKER = "RCARENA_FAULT"
"""Environment variable of every process that carries out a fault; its value is the journal file."""
DEAD_MAN_MARKER = "RCARENA_DEAD_MAN"
"""The same for the dead-man timer of an injection."""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def machine_id() -> str:
    """Where process ids and monotonic times mean the same: one boot and one PID namespace (a pod has its own)."""
    return f"{boot_id()}/{Path('/proc/self/ns/pid').stat().st_ino}"


def process_state(pid: int) -> str | None:
    """State letter of ``pid`` (``R``, ``S``, ``T`` …), None when it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def marked_processes(marker: str, journals: Path) -> dict[int, Path]:
    """Journal file by pid, for each process but the caller that carries ``marker``.

    ``journals`` is one journal file, or a directory that stands for every file in it.
    """
    prefix = f"{marker}=".encode()
    found: dict[int, Path] = {}
    for entry in Path("/proc").iterdir():
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
            if journals in (journal, journal.parent) and process_state(int(entry.name)) not in (None, "Z", "X"):
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
