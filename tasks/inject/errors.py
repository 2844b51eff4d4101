"""Errors of carrying out and undoing faults."""

from __future__ import annotations

from tasks.errors import EXIT_USAGE, RCArenaError


class FaultError(RCArenaError):
    """A fault could not be carried out or undone; the message says what and why."""


class InjectionError(FaultError):
    """An injection cannot be started. ``problems`` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class InjectionRefusedError(InjectionError):
    """The stack has no such service, or the kind does not run on it: retrying does not help."""

    exit_status = EXIT_USAGE


class JournalError(RCArenaError):
    """A journal cannot be read, or another process holds its lock."""


class ForeignJournalError(JournalError):
    """An intact journal of a backend that is not installed here; only that backend can undo its fault."""
