"""The error of recording and of reading what is recorded."""

from __future__ import annotations

from tasks.errors import RCArenaError


class RecordError(RCArenaError):
    """A campaign was not recorded, or a recorded one cannot be read.

    Nothing is half-recorded, and the same command may be run again.
    """
