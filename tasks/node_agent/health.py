"""The agent's health: a file that its watchdog touches. Kept free of imports: a probe runs it every few seconds.

``python -m tasks.node_agent.health FILE SECONDS`` ends with 0 when the file was touched in the last SECONDS. That the
API cannot be reached is no ill health: a restart would end every fault and cure nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

DEFAULT_FILE = Path("/run/rcarena-node-agent/health")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def problem(path: Path, within_s: float) -> str | None:
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: last touched {age_s:.0f} s ago" if age_s > within_s else None


if __name__ == "__main__":
    found = problem(Path(sys.argv[1]), float(sys.argv[2]))
    sys.exit(found)
