"""The error of recording campaigns and reading recorded ones."""

from __future__ import annotations

from tasks.errors import RCArenaError


class RecordError(RCArenaError):
    """A campaign was not recorded, or a recorded one cannot be read.

    Nothing is partly recorded; the command can be repeated.
    """
