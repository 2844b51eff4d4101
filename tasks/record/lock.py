"""One recording at a time, across processes: a lock that its children keep while they live."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.record.errors import RecordError

_POLL_S = 0.2


@contextlib.contextmanager
def held(file: Path, *, wait_s: float) -> Iterator[int]:
    """Hold ``file``; gives its descriptor. A child that inherits the descriptor holds the lock, too: what a killed
    recording left running is over before the next one begins.

    Raises:
        RecordError: another process has had it for ``wait_s``.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with file.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RecordError(
                        f"another process is recording ({file}) and did not end within {wait_s:g} s; run again later"
                    ) from None
                time.sleep(_POLL_S)
        yield lock.fileno()
