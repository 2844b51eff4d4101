"""The error of a comparison."""

from __future__ import annotations


class CompareError(RuntimeError):
    """Two campaigns cannot be compared."""
