"""Names for cgroups of tests that say whose they are: what a killed run leaves is removed by the next one."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from tasks.deploy.local.cgroups import Cgroup, detect_hierarchy

_PREFIX = f"rcarena-test-{Path('/proc/self/ns/pid').stat().st_ino}-"
"""Of this PID namespace: in another the same number is another process."""
_numbers = itertools.count()


def own_name() -> str:
    """A new name below the root of every controller; cgroups of test processes that are gone are removed first."""
    hierarchy = detect_hierarchy()
    for name in {path.name for mount in hierarchy.values() for path in mount.glob(f"{_PREFIX}*")}:
        pid = name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            left = Cgroup({controller: mount / name for controller, mount in hierarchy.items()})
            with contextlib.suppress(OSError):  # another run is at it
                left.kill_all()
                left.remove()
    return f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
