"""The processes of this node by pod, from ``/proc``: the agent runs in the host's PID namespace."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tasks.engine import ENGINE_TITLE
from tasks.kube.node_fault import SavedProcess
from tasks.system.process import PROC, read_stat, read_text, start_ticks

_POD_IN_CGROUP = re.compile(
    r"pod([0-9a-f]{8})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{4})[-_]([0-9a-f]{12})(?![0-9a-f])"
)
_GPU_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SETTLE_S = 3.0


class ProcessError(RuntimeError):
    """Processes could not be brought into the state that was asked for."""


def pod_of_cgroup(text: str) -> str | None:
    """Find the pod UID in ``/proc/PID/cgroup``: every cgroup driver and version has it in the path."""
    found = _POD_IN_CGROUP.search(text)
    return "-".join(found.groups()) if found else None


class ProcessTable:
    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc

    def pod_of(self, pid: int) -> str | None:
        """Return the UID of the pod that ``pid`` belongs to; None when it is of no pod or gone."""
        return pod_of_cgroup(self._read(pid, "cgroup"))

    def of_pod(self, pod_uid: str) -> list[int]:
        return [pid for pid in self._pids() if self.pod_of(pid) == pod_uid]

    def engine_of_pod(self, pod_uid: str, computing: Iterable[int]) -> list[SavedProcess]:
        """The vLLM processes of a pod: by their title, or because they compute on a GPU."""
        on_gpu = set(computing)
        found = []
        for pid in self.of_pod(pod_uid):
            title = self._title(pid)
            ticks = self.start_ticks(pid)
            if ticks is not None and (title.startswith(ENGINE_TITLE) or pid in on_gpu):
                found.append(SavedProcess(pid=pid, start_ticks=ticks, name=title[:80]))
        return found

    def assigned_gpus(self, pod_uid: str) -> set[str]:
        """GPU UUIDs that the device plugin gave the pod by environment variable, used or not."""
        assigned: set[str] = set()
        for pid in self.of_pod(pod_uid):
            for entry in self._read(pid, "environ").split("\0"):
                if entry.startswith("NVIDIA_VISIBLE_DEVICES="):
                    assigned.update(_GPU_UUID.findall(entry))
        return assigned

    def start_ticks(self, pid: int) -> int | None:
        """Return None when it does not run; a zombie counts as not running."""
        return start_ticks(pid, self._proc)

    def is_same(self, process: SavedProcess) -> bool:
        return self.start_ticks(process.pid) == process.start_ticks

    def is_stopped(self, process: SavedProcess) -> bool:
        stat = read_stat(process.pid, self._proc)
        return self.is_same(process) and stat is not None and stat.state in "Tt"

    def stop(self, processes: Iterable[SavedProcess]) -> None:
        """Raises ProcessError when one still runs after ``SETTLE_S``."""
        self._signal_until(
            signal.SIGSTOP, list(processes), lambda each: not self.is_same(each) or self.is_stopped(each)
        )

    def resume(self, processes: Iterable[SavedProcess]) -> None:
        """Raises ProcessError when one is still stopped after ``SETTLE_S``."""
        self._signal_until(signal.SIGCONT, list(processes), lambda it: not self.is_stopped(it))

    def kill(self, processes: Iterable[SavedProcess]) -> None:
        """Raises ProcessError when one lives after ``SETTLE_S``."""
        self._signal_until(signal.SIGKILL, list(processes), lambda it: not self.is_same(it))

    def _signal_until(
        self, number: signal.Signals, processes: list[SavedProcess], reached: Callable[[SavedProcess], bool]
    ) -> None:
        deadline = time.monotonic() + SETTLE_S
        while waiting := [each for each in processes if not reached(each)]:
            if time.monotonic() > deadline:
                pids = ", ".join(str(each.pid) for each in waiting)
                raise ProcessError(f"{number.name} has no effect on {pids}")
            for each in waiting:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, number)
            time.sleep(0.02)

    def _pids(self) -> list[int]:
        return sorted(int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit())

    def _title(self, pid: int) -> str:
        return self._read(pid, "cmdline").replace("\0", " ").strip()

    def _read(self, pid: int, name: str) -> str:
        return read_text(pid, name, self._proc)
