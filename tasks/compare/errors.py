"""The error of a comparison."""

from __future__ import annotations

from tasks.errors import RCArenaError


class CompareError(RCArenaError):
    """Two campaigns cannot be compared."""
