"""The service that a fault acts on, and the processes that a fault starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from tasks.deploy.local.cgroups import UNIFIED, V1_TRACKER, Cgroup
from tasks.deploy.local.namespaces import enter_fabric, enter_service, join_network
from tasks.deploy.local.process import ProcessId
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime

MARKER = "RCARENA_FAULT"
"""Environment variable of every process that carries out a fault; its value is the journal file."""
DEAD_MAN_MARKER = "RCARENA_DEAD_MAN"
"""The same for the dead-man timer of an injection."""
TRACKER_PREFIX = "fault-"
COMMAND_TIMEOUT_S = 10

T = TypeVar("T")


class FaultError(RuntimeError):
    """A fault could not be carried out or undone; the message says what and why."""


class Target(BaseModel):
    """One service of one stack, with all that is needed to act on it and to undo: no other file is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceRuntime
    supervisor: ProcessId
    boot_id: str

    @classmethod
    def of(cls, runtime: StackRuntime, service: str) -> Target:
        return cls(service=runtime.service(service), supervisor=runtime.supervisor, boot_id=boot_id())

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def cgroup(self) -> Cgroup:
        return self.service.cgroup

    @property
    def stack_alive(self) -> bool:
        """While the stack's init process lives, its namespaces do."""
        return self.boot_id == boot_id() and self.supervisor.alive

    def enter_fabric(self) -> list[str]:
        return enter_fabric(self.supervisor.pid)

    def enter_service(self) -> list[str]:
        return enter_service(self.supervisor.pid, self.service.name)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a short command in the network namespace of the service; the caller looks at ``returncode``.

        Raises:
            FaultError: it hangs.
        """
        try:
            return subprocess.run(
                [*self.enter_service(), *argv],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise FaultError(f"{self.name}: `{' '.join(argv)}` took more than {COMMAND_TIMEOUT_S} s") from error

    def in_fabric_network(self, make: Callable[[], T]) -> T:
        """The result of ``make`` called in the fabric's network namespace: a socket stays there for good."""
        return _in_network(self.supervisor.pid, make)

    def in_service_network(self, make: Callable[[], T]) -> T:
        """The result of ``make`` called in the service's network namespace.

        Raises:
            FaultError: no process of the service is in it.
        """
        network = Path(f"/proc/{self.supervisor.pid}/root/run/netns/{self.name}").stat().st_ino
        for pid in self.processes():
            if network_of(pid) == network:
                return _in_network(pid, make)
        raise FaultError(f"{self.name}: no process of it runs in its network namespace")

    def tracker(self, name: str) -> Cgroup:
        """The sub-group as ``Cgroup.tracker`` names it, without making it."""
        controller = UNIFIED if self.cgroup.is_v2 else V1_TRACKER
        return Cgroup({controller: self.cgroup.paths[controller] / name})

    def trackers(self) -> list[str]:
        """Names of the fault sub-groups of the service's cgroup."""
        controller = UNIFIED if self.cgroup.is_v2 else V1_TRACKER
        found = self.cgroup.paths[controller].glob(f"{TRACKER_PREFIX}*")
        return sorted(path.name for path in found if path.is_dir())

    def all_processes(self) -> dict[int, str]:
        """State letter (``R``, ``S``, ``T`` …) of each process in the service's cgroup that runs; zombies left out."""
        states = ((pid, process_state(pid)) for pid in self.cgroup.pids()) if self.cgroup.exists else ()
        return {pid: state for pid, state in states if state not in (None, "Z", "X")}

    def processes(self) -> dict[int, str]:
        """The service's own of ``all_processes``: without what faults have put there."""
        added = {pid for name in self.trackers() for pid in self.tracker(name).pids()}
        return {pid: state for pid, state in self.all_processes().items() if pid not in added}


def _in_network(pid: int, make: Callable[[], T]) -> T:
    """The result of ``make`` called in a thread of its own that has joined the network namespace of ``pid``."""
    results: list[T] = []
    errors: list[OSError] = []

    def call() -> None:
        try:
            join_network(pid)
            results.append(make())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def network_of(pid: int) -> int | None:
    """Inode of the network namespace of ``pid``."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


def process_state(pid: int) -> str | None:
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
