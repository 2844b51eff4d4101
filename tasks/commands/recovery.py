"""Undoing what is left of faults, as several commands do."""

from __future__ import annotations

from collections.abc import Callable

from tasks.commands.errors import fail
from tasks.errors import EXIT_FAILED
from tasks.workspace import Workspace


def undo_faults(place: Workspace, say: Callable[[str], None]) -> None:
    """Say what was undone; end the command with exit status 1 if something stays."""
    from tasks.inject.recover import recover, residue

    for line in recover(place):
        say(line)
    left = residue(place)
    if left:
        fail("\n".join(["residue that could not be removed:", *left]), EXIT_FAILED)
