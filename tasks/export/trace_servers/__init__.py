"""Servers that hold the spans of a stack: every module here registers one under its own name with ``@trace_server``."""

from __future__ import annotations

import pkgutil
from importlib import metadata

GROUP = "rcarena.trace_servers"
"""Entry points by which other distributions offer one."""


def names() -> list[str]:
    """Return the kinds of servers that parameters can name, without importing any."""
    ours = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(ours | {point.name for point in metadata.entry_points(group=GROUP)})
