"""Errors of deployment, shared by all backends."""

from __future__ import annotations

from tasks.errors import RCArenaError


class DeployError(RCArenaError):
    """The stack is not up; the message gives the reason and the remedy."""


class StackNotRunningError(RCArenaError):
    """No stack runs in this workspace."""
