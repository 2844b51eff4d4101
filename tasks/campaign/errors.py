"""The errors of a campaign."""

from __future__ import annotations

from tasks.errors import RCArenaError


class CampaignError(RCArenaError):
    """The campaign could not be completed; what was finished is kept."""


class AttemptError(RCArenaError):
    """The case could not be recorded. Nothing was published."""
