"""Directories for files that nobody needs after the process: what ``kill -9`` leaves, the next run removes."""

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
    """A new directory ``rcarena-<purpose>-<12 hex digits>`` in ``parent``, gone at the end.

    Its process holds a lock on it, which the kernel takes back however the process ends. So the directories of the
    same purpose, parent and user that nobody holds are left over, and are removed first.
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
    """A directory and the lock on it. Another run may take it for stale in the moment between the two: then again."""
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
    """A locked descriptor of our own ``directory``; None if another process has it, it is gone, or is no directory."""
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
