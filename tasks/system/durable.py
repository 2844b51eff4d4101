"""Files that are whole or not there, also after a crash of the process or of the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """A reader sees the old content or the new one.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_synced(staging, content)
        staging.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            staging.unlink()
        raise
    sync(path.parent)


def create_once(path: Path, content: bytes) -> bool:
    """Create the file whole, unless it is there: of several that try one succeeds. False when it was there.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write_synced(staging, content)
        os.link(staging, path)
        sync(path.parent)
    except FileExistsError:
        return False
    finally:
        staging.unlink(missing_ok=True)
    return True


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Of a file its content, of a directory its names: on the disk when this returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
