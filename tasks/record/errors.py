"""What recording and comparing can tell a person."""

from __future__ import annotations


class RecordError(RuntimeError):
    """The campaign was not recorded; nothing is half-recorded, and the same command may be run again."""


class CompareError(RuntimeError):
    """Two campaigns cannot be compared."""
