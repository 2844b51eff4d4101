"""What goes wrong with a stack, on any backend."""

from __future__ import annotations


class DeployError(RuntimeError):
    """The stack is not up; the message says why and what to do."""


class StackNotRunningError(RuntimeError):
    """No stack runs in this workspace."""
