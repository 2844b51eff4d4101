"""What the first place of a ranking is: right, or which error. Definitions: docs/scores.md."""

from __future__ import annotations

from typing import Literal, get_args

from tasks.rca.run.pair import PairResult
from tasks.score.truth import Truth

FirstPlace = Literal["correct", "victim", "disturbance", "gateway", "head", "replica", "service", "nothing"]
FIRST_PLACES: tuple[FirstPlace, ...] = get_args(FirstPlace)
"""``gateway`` … ``service``: a service of that role to which nothing was done."""


def first_place(result: PairResult, truth: Truth) -> FirstPlace:
    """Return what ``result`` named first in a case that is scored. A root that is also a victim or disturbed is right;
    of a victim that is also disturbed, the victim counts."""
    if not result.suspects:
        return "nothing"
    service = result.suspects[0].service
    if service in truth.services:
        return "correct"
    if any(victim.service == service for victim in truth.victims):
        return "victim"
    if service in truth.disturbed:
        return "disturbance"
    return truth.role_of(service)
