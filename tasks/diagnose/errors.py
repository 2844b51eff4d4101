"""The errors of this stage."""

from __future__ import annotations

from tasks.errors import RCArenaError


class DiagnoseError(RCArenaError):
    """There is nothing to diagnose by: no telemetry, or none in the window."""
