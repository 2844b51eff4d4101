"""Run stress-ng in the cgroup of a service, tracked by a cgroup of its own so that all of it can be killed."""

from __future__ import annotations

import math
import os
import subprocess
import time

from tasks.inject.errors import FaultError
from tasks.inject.executors.local.target import LocalTarget

START_TIMEOUT_S = 5

_JOIN_AND_EXEC = """set -e
echo 1000 > /proc/self/oom_score_adj
while [ "$1" != -- ]; do echo 0 > "$1"; shift; done
shift
exec "$@"
"""


def start_stressor(
    target: LocalTarget, tracker: str, arguments: list[str], run_for_s: float
) -> subprocess.Popen[bytes]:
    """Start ``stress-ng ARGUMENTS`` in the service's cgroup and in the stack's PID namespace.

    It ends with the stack, with this process (parent-death signals), at its own timeout, or when ``tracker`` is killed.
    The launcher joins ``tracker`` first, so it fails when an undo has removed that.

    Raises:
        FaultError: it did not start.
    """
    group = target.cgroup.tracker(tracker)
    tracker_files = group.member_files()
    files = [*tracker_files, *(file for file in target.cgroup.member_files(group) if file not in tracker_files)]
    usual_priority = ["nice", "-n", str(-os.getpriority(os.PRIO_PROCESS, 0))]
    argv = [
        *usual_priority,
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
        *target.enter_fabric(),
        "sh",
        "-c",
        _JOIN_AND_EXEC,
        "sh",
    ]
    argv += [*map(str, files), "--", "setpriv", "--pdeathsig", "TERM", "--"]
    argv += ["stress-ng", "--quiet", "--timeout", f"{math.ceil(run_for_s)}s", "--temp-path", "/tmp", *arguments]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if len(group.pids()) >= 2:  # stress-ng and at least one worker
            return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    output, _ = process.communicate()
    last_line = (output.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
    raise FaultError(f"{target.name}: stress-ng did not start: {last_line}")
