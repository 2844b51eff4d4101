"""The error of the score stage."""

from __future__ import annotations

from tasks.errors import RCArenaError


class ScoreError(RCArenaError):
    """There is nothing to score, another process is scoring, or a result file of the stage cannot be used."""
