"""One cgroup per service: CPU quota, memory limit, usage and killing its processes. Supports cgroup v2 and v1.

Version 1 is used where the controllers are mounted there (``/sys/fs/cgroup/cpu`` …), as on hybrid machines.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import RCArenaError

CGROUP_ROOT = Path("/sys/fs/cgroup")
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer")
V1_TRACKER = "freezer"
UNIFIED = "unified"
PERIOD_US = 100_000
STACKS_PREFIX = "rcarena-"


class CgroupError(RCArenaError):
    """The machine has no usable cgroup controllers."""


def detect_hierarchy(root: Path = CGROUP_ROOT) -> dict[str, Path]:
    """Return the mount point per controller: ``{"unified": …}`` for v2, one entry per controller for v1.

    Raises:
        CgroupError: neither version offers the cpu and memory controllers.
    """
    v2 = root / "cgroup.controllers"
    if v2.exists() and {"cpu", "memory"} <= set(v2.read_text(encoding="utf-8").split()):
        return {UNIFIED: root}
    v1 = {name: root / name for name in V1_CONTROLLERS if (root / name / "cgroup.procs").exists()}
    if {"cpu", "memory", V1_TRACKER} <= set(v1):
        return v1
    raise CgroupError(f"no usable cgroup controllers below {root}: cpu and memory are needed (v2, or v1 with freezer)")


@dataclass(frozen=True)
class Cgroup:
    """The directories of one cgroup, by controller."""

    paths: Mapping[str, Path]

    @classmethod
    def create(cls, *parts: str, root: Path = CGROUP_ROOT) -> Cgroup:
        """Create (or adopt) the cgroup ``parts`` below every controller."""
        hierarchy = detect_hierarchy(root)
        if UNIFIED in hierarchy:
            _delegate_v2(hierarchy[UNIFIED], parts[:-1])
        cgroup = cls({name: mount.joinpath(*parts) for name, mount in hierarchy.items()})
        for path in cgroup.paths.values():
            path.mkdir(parents=True, exist_ok=True)
        return cgroup

    @classmethod
    def from_strings(cls, paths: Mapping[str, str]) -> Cgroup:
        return cls({name: Path(path) for name, path in paths.items()})

    def to_strings(self) -> dict[str, str]:
        return {name: str(path) for name, path in self.paths.items()}

    @property
    def parent(self) -> Cgroup:
        return Cgroup({name: path.parent for name, path in self.paths.items()})

    @property
    def is_v2(self) -> bool:
        return UNIFIED in self.paths

    def tracker(self, name: str) -> Cgroup:
        """Create a sub-group that only tracks processes: members keep the shares and limits of this cgroup.

        Add a process with ``member_files``; kill with ``kill_all``; remove when empty.
        """
        if self.is_v2:
            child = Cgroup({UNIFIED: self.paths[UNIFIED] / name})
        else:
            child = Cgroup({V1_TRACKER: self.paths[V1_TRACKER] / name})
        for path in child.paths.values():
            path.mkdir(exist_ok=True)
        return child

    def member_files(self, tracker: Cgroup | None = None) -> list[Path]:
        """Return the files to which a process writes ``0`` to join this cgroup (and ``tracker``)."""
        paths = {**self.paths, **(tracker.paths if tracker else {})}
        return [path / "cgroup.procs" for path in paths.values()]

    @property
    def exists(self) -> bool:
        return any(path.is_dir() for path in self.paths.values())

    def cpu_cores(self) -> float | None:
        """Return the CPU quota in cores; None when unlimited."""
        if self.is_v2:
            quota, period = (self.paths[UNIFIED] / "cpu.max").read_text(encoding="utf-8").split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((self.paths["cpu"] / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_us = int((self.paths["cpu"] / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return None if quota_us < 0 else quota_us / period_us

    def set_cpu_cores(self, cores: float | None) -> None:
        """Set the CPU quota; None lifts it. The kernel's minimum is 1 ms per period."""
        quota = None if cores is None else max(1_000, round(cores * PERIOD_US))
        if self.is_v2:
            _write(self.paths[UNIFIED] / "cpu.max", f"{'max' if quota is None else quota} {PERIOD_US}")
            return
        _write(self.paths["cpu"] / "cpu.cfs_period_us", str(PERIOD_US))
        _write(self.paths["cpu"] / "cpu.cfs_quota_us", str(-1 if quota is None else quota))

    def memory_limit(self) -> int | None:
        """Return the memory limit in bytes; None when unlimited."""
        if self.is_v2:
            text = (self.paths[UNIFIED] / "memory.max").read_text(encoding="utf-8").strip()
            return None if text == "max" else int(text)
        limit = int((self.paths["memory"] / "memory.limit_in_bytes").read_text(encoding="utf-8"))
        return None if limit >= 2**62 else limit

    def set_memory_limit(self, limit: int | None) -> None:
        if self.is_v2:
            _write(self.paths[UNIFIED] / "memory.max", "max" if limit is None else str(limit))
        else:
            _write(self.paths["memory"] / "memory.limit_in_bytes", "-1" if limit is None else str(limit))

    def memory_usage(self) -> int:
        """Return the bytes charged to this cgroup, page cache included."""
        name = "memory.current" if self.is_v2 else "memory.usage_in_bytes"
        return int((self.paths[UNIFIED if self.is_v2 else "memory"] / name).read_text(encoding="utf-8"))

    def throttled_seconds(self) -> float:
        """Return the seconds in which runnable threads waited for the quota, summed over CPUs."""
        stat = _keyed(self.paths[UNIFIED if self.is_v2 else "cpu"] / "cpu.stat")
        return stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9

    def pids(self) -> set[int]:
        """Return the pids in this cgroup and below, as seen from the reader's PID namespace."""
        found: set[int] = set()
        for path in self.paths.values():
            for procs in path.rglob("cgroup.procs"):
                with contextlib.suppress(FileNotFoundError, OSError):
                    found.update(int(pid) for pid in procs.read_text(encoding="utf-8").split())
        return found - {0}

    def signal_all(self, signal_number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    def kill_all(self, timeout_s: float = 10) -> bool:
        """Send SIGKILL until the cgroup is empty; return False if it is not within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.pids():
            self.signal_all(signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def remove(self) -> None:
        """Remove the (empty) directories, sub-groups first; missing ones are ignored.

        Raises:
            OSError: a process is still inside.
        """
        for path in self.paths.values():
            for directory in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                _rmdir(directory)
            _rmdir(path)


def _rmdir(path: Path) -> None:
    for attempt in range(20):  # the kernel frees a cgroup a moment after its last process has gone
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == 19:
                raise
            time.sleep(0.05)
        else:
            return


def _delegate_v2(root: Path, parents: tuple[str, ...]) -> None:
    """Enable the cpu, memory and pids controllers from the root down to the parent of a new cgroup."""
    path = root
    for part in (None, *parents):
        if part is not None:
            path = path / part
            path.mkdir(exist_ok=True)
        offered = set((path / "cgroup.controllers").read_text(encoding="utf-8").split())
        wanted = {"cpu", "memory", "pids"} & offered
        enabled = set((path / "cgroup.subtree_control").read_text(encoding="utf-8").split())
        if wanted - enabled:
            try:
                _write(path / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted - enabled)))
            except OSError as error:
                raise CgroupError(
                    f"cannot enable the cgroup controllers {', '.join(sorted(wanted - enabled))} in {path}: "
                    f"{error.strerror}. In a container whose own processes sit in the root cgroup, move them first: "
                    "cd /sys/fs/cgroup; mkdir init; xargs -rn1 <cgroup.procs >init/cgroup.procs"
                ) from error


def _keyed(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
