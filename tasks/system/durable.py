"""Files and directories that are whole or not there, also after a crash of the process or of the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write or replace a file: a reader sees the old content or the new one.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_synced(staging, content)
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()
    sync(path.parent)


def create_once(path: Path, content: bytes) -> bool:
    """Create a file unless it exists: one of several processes succeeds. Return False when it exists.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write_synced(staging, content)
        os.link(staging, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()
    sync(path.parent)
    return True


def publish_directory(staging: Path, final: Path) -> None:
    """Put a flat directory that is complete in the place of ``final``, on the same file system. Raises OSError."""
    for file in staging.iterdir():
        sync(file)
    sync(staging)
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a directory, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def owner_only(path: str, flags: int) -> int:
    """Open a file, as ``open(opener=...)``, that only its owner can read."""
    return os.open(path, flags, 0o600)


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
