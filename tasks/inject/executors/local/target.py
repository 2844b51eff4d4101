"""The target of a fault on this machine: the processes, cgroup and network of one service."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from tasks.deploy.local.cgroups import UNIFIED, V1_TRACKER, Cgroup
from tasks.deploy.local.namespaces import enter_fabric, enter_service, join_network
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.engine import ENGINE_TITLE
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultTarget
from tasks.prometheus import PrometheusError, Series, raw_samples
from tasks.system.process import ProcessId, boot_id, process_state, read_text, start_ticks

TRACKER_PREFIX = "fault-"
COMMAND_TIMEOUT_S = 10

T = TypeVar("T")


class LocalTarget(FaultTarget):
    """One service of a stack on this machine. ``directory``: of the stack; None in journals of earlier versions."""

    backend: Literal["local"] = "local"
    service: ServiceRuntime
    supervisor: ProcessId
    boot_id: str
    directory: Path | None = None
    prometheus_url: str = ""

    @classmethod
    def of(cls, runtime: StackRuntime, service: str) -> LocalTarget:
        return cls(
            service=runtime.service(service),
            supervisor=runtime.supervisor,
            boot_id=boot_id(),
            directory=runtime.directory,
            prometheus_url=runtime.prometheus_url,
        )

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def cgroup(self) -> Cgroup:
        return self.service.cgroup

    @property
    def stack_alive(self) -> bool:
        """True while the stack's init process lives, and with it the namespaces."""
        return self.boot_id == boot_id() and self.supervisor.alive

    @property
    def gone(self) -> bool:
        return not self.stack_alive and not self.cgroup.exists

    def identities(self) -> frozenset[str]:
        """Return pid and start time of each of the service's own processes."""
        ticks = {pid: start_ticks(pid) for pid in self.processes()}
        return frozenset(f"{pid}:{ticks[pid]}" for pid in ticks if ticks[pid] is not None)

    def enter_fabric(self) -> list[str]:
        return enter_fabric(self.supervisor.pid)

    def enter_service(self) -> list[str]:
        return enter_service(self.supervisor.pid, self.service.name)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a short command in the network namespace of the service; the caller checks ``returncode``.

        Raises:
            FaultError: it hangs.
        """
        return self._run(self.enter_service(), argv)

    def run_in_fabric(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a short command in the network namespace of the fabric; as ``run``."""
        return self._run(self.enter_fabric(), argv)

    def _run(self, prefix: list[str], argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*prefix, *argv],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise FaultError(f"{self.name}: `{' '.join(argv)}` took more than {COMMAND_TIMEOUT_S} s") from error

    def in_fabric_network(self, make: Callable[[], T]) -> T:
        """Call ``make`` in the fabric's network namespace; a socket that it opens stays there."""
        return _in_network(self.supervisor.pid, make)

    def prometheus_samples(self, selector: str, seconds: float) -> list[Series]:
        """Return the samples of the last ``seconds`` that the stack's Prometheus has.

        Raises:
            FaultError, OSError: it does not answer.
        """
        try:
            return self.in_fabric_network(lambda: raw_samples(self.prometheus_url, selector, seconds))
        except PrometheusError as error:
            raise FaultError(str(error)) from error

    def in_service_network(self, make: Callable[[], T]) -> T:
        """Call ``make`` in the service's network namespace.

        Raises:
            FaultError: no process of the service is in it.
        """
        network = Path(f"/proc/{self.supervisor.pid}/root/run/netns/{self.name}").stat().st_ino
        for pid in self.processes():
            if network_of(pid) == network:
                return _in_network(pid, make)
        raise FaultError(f"{self.name}: no process of it runs in its network namespace")

    def tracker(self, name: str) -> Cgroup:
        """Return the cgroup named by ``Cgroup.tracker``, without creating it."""
        controller = UNIFIED if self.cgroup.is_v2 else V1_TRACKER
        return Cgroup({controller: self.cgroup.paths[controller] / name})

    def trackers(self) -> list[str]:
        """Return the names of the trackers of faults in the service's cgroup."""
        controller = UNIFIED if self.cgroup.is_v2 else V1_TRACKER
        found = self.cgroup.paths[controller].glob(f"{TRACKER_PREFIX}*")
        return sorted(path.name for path in found if path.is_dir())

    def all_processes(self) -> dict[int, str]:
        """Return the state (``R``, ``S``, ``T`` …) of each process in the service's cgroup; zombies are left out."""
        states = ((pid, process_state(pid)) for pid in self.cgroup.pids()) if self.cgroup.exists else ()
        return {pid: state for pid, state in states if state not in (None, "Z", "X")}

    def processes(self) -> dict[int, str]:
        """Return ``all_processes`` without those that faults have added."""
        added = {pid for name in self.trackers() for pid in self.tracker(name).pids()}
        return {pid: state for pid, state in self.all_processes().items() if pid not in added}

    def engine_processes(self) -> dict[int, str]:
        """Return those of ``processes`` in which vLLM's engine computes."""
        return {
            pid: state for pid, state in self.processes().items() if read_text(pid, "cmdline").startswith(ENGINE_TITLE)
        }


def _in_network(pid: int, make: Callable[[], T]) -> T:
    """Call ``make`` in a new thread that has joined the network namespace of ``pid``."""
    results: list[T] = []
    errors: list[OSError | FaultError] = []

    def call() -> None:
        try:
            join_network(pid)
            results.append(make())
        except (OSError, FaultError) as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def network_of(pid: int) -> int | None:
    """Return the inode of the network namespace of ``pid``; None when it has ended."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None
