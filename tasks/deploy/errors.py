"""What goes wrong with a stack, on any backend."""

from __future__ import annotations

from tasks.errors import RCArenaError


class DeployError(RCArenaError):
    """The stack is not up; the message says why and what to do."""


class StackNotRunningError(RCArenaError):
    """No stack runs in this workspace."""
