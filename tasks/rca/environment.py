"""What two processes must share so that a method gives both the same result."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

_TASKS = Path(__file__).parents[1]
_SHARED_CODE = ("rca/*.py", "rca/graph/*.py", "case.py", "requests.py", "span_links.py", "export/metric_map.py")
_LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn")


@cache
def _environment() -> tuple[tuple[str, str], ...]:
    files = [file for pattern in _SHARED_CODE for file in sorted(_TASKS.glob(pattern))]
    shared = {
        "rcarena's shared RCA code": digest(file.read_bytes() for file in files)[:12],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    return tuple((shared | {library: version_of(library) for library in _LIBRARIES}).items())


def environment() -> dict[str, str]:
    """By name: a digest of the code that all methods share, the interpreter, and the versions of the libraries."""
    return dict(_environment())


def version_of(distribution: str) -> str:
    """Empty if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def digest(parts: Iterable[bytes]) -> str:
    """One digest of several contents, in their order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
