"""The code and the libraries that decide a result, besides the case and the parameters.

Two processes with the same environment give the same results.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import cache

from tasks.imports import code_digest, version_of
from tasks.rca.method import METHODS

_LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn")
_WORKER = "tasks.rca.run.worker"


def libraries() -> dict[str, str]:
    """Return by name the interpreter, the machine's kind, and the versions of the libraries that all methods share."""
    versions = {library: version_of(library) for library in _LIBRARIES}
    return {"python": platform.python_version(), "machine": platform.machine()} | versions


def environment(others: Iterable[str] = ()) -> dict[str, str]:
    """Return by name a digest of our code that runs methods and of our methods, one of each module of ``others``, and
    ``libraries``."""
    return {
        "rcarena's RCA code": _our_digest(),
        **{f"code of {module}": code_digest(module)[:12] for module in sorted(others)},
        **libraries(),
    }


@cache
def _our_digest() -> str:
    return code_digest(_WORKER, *METHODS.our_modules)[:12]
