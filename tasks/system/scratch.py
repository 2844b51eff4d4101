"""Directories that last as long as their process: what ``kill -9`` leaves, the next run removes."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tasks.system.file_lock import try_flock


@contextlib.contextmanager
def scratch_directory(purpose: str, parent: Path) -> Iterator[Path]:
    """Create a directory ``rcarena-<purpose>-<12 hex digits>`` in ``parent`` and remove it at the end.

    The process holds a lock on it, which the kernel frees however the process ends. Directories of the same purpose,
    parent and user that no process holds are left over from earlier runs and are removed first.
    """
    prefix = f"rcarena-{purpose}-"
    _remove_stale(parent, re.compile(re.escape(prefix) + "[0-9a-f]{12}"))
    directory, lock = _new(parent, prefix)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _new(parent: Path, prefix: str) -> tuple[Path, int]:
    """Create a directory and lock it; try again when another run removed it as stale in between."""
    while True:
        directory = parent / f"{prefix}{secrets.token_hex(6)}"
        directory.mkdir(mode=0o700)
        lock = _lock(directory)
        if lock is not None:
            return directory, lock


def _remove_stale(parent: Path, name: re.Pattern[str]) -> None:
    for directory in parent.iterdir():
        if name.fullmatch(directory.name) and (lock := _lock(directory)) is not None:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)


def _lock(directory: Path) -> int | None:
    """Return a locked descriptor of ``directory``; None if another process holds it, or it is gone or not ours."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        held = os.fstat(descriptor)
        if try_flock(descriptor) and held.st_uid == os.geteuid() and os.path.samestat(held, directory.lstat()):
            return descriptor
    except OSError:  # removed in the meantime
        pass
    os.close(descriptor)
    return None
