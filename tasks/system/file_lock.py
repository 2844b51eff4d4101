"""Exclusive locks between processes. The kernel frees a lock when its holder ends, also by ``kill -9``."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

_POLL_S = 0.02


def try_flock(descriptor: int) -> bool:
    """Lock an open file or directory. Return False when another process holds it. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FileLock:
    """A lock on ``file``, which is created where it is missing, with its directory unless ``make_directory`` is false.

    As a context manager it waits up to ``timeout_s`` for another holder and then raises ``busy``. A child process that
    inherits ``descriptor`` (``pass_fds``) keeps the lock until it ends.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, busy: Exception, *, timeout_s: float = 0, make_directory: bool = True) -> None:
        self._file = file
        self._busy = busy
        self._timeout_s = timeout_s
        self._make_directory = make_directory
        self.descriptor = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        if self.descriptor < 0:
            if self._make_directory:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return try_flock(self.descriptor)

    def release(self) -> None:
        """Close the file: the lock is free unless a child has inherited it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._timeout_s
        try:
            while not self.try_acquire():
                if time.monotonic() >= deadline:
                    raise self._busy
                time.sleep(_POLL_S)
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
