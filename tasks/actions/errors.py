"""Errors of actions."""

from __future__ import annotations

from tasks.errors import EXIT_USAGE, RCArenaError


class ActionError(RCArenaError):
    """An action failed; the message says what and why. What it had begun is finished or undone by ``--recover``."""


class ActionRefusedError(ActionError):
    """The stack cannot carry out the action, or it would be of no use: retrying does not help."""

    exit_status = EXIT_USAGE
