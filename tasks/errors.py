"""The errors that a user can cause or cure, and the exit statuses of the commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

EXIT_FAILED = 1
"""The command failed; the next try may succeed."""

EXIT_NOTHING = 4
"""The command did its work, and found nothing significant."""

EXIT_USAGE = 2
"""Wrong usage or parameters, or a fault that this stack cannot have: the next try would end the same way."""


class RCArenaError(Exception):
    """An error that a user can cause or cure. ``rcarena`` shows its message and ends with ``exit_status``."""

    exit_status: ClassVar[int] = EXIT_FAILED


class ParamsError(RCArenaError):
    """Parameters or options that cannot be used. ``problems`` holds one line per problem, each naming the key."""

    exit_status = EXIT_USAGE

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
