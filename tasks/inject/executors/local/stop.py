"""Stop processes of a service. (Processes in a frozen cgroup v1 could not be killed.)"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping

from tasks.inject.errors import FaultError
from tasks.inject.executors.local.target import LocalTarget

SETTLE_S = 2.0


def stop_processes(target: LocalTarget, which: Callable[[], Mapping[int, str]]) -> None:
    """Send SIGSTOP until every process that ``which`` returns (pid -> state) is stopped.

    Raises:
        FaultError: one still runs after ``SETTLE_S``.
    """
    deadline = time.monotonic() + SETTLE_S
    while running := [pid for pid, state in which().items() if state != "T"]:
        for pid in running:
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise FaultError(f"{target.name}: {len(running)} processes do not stop")
        time.sleep(0.005)
