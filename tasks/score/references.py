"""Reference scores: the exact means of three random orders, which a ranking must beat to have learned from the
telemetry.

Definitions: docs/scores.md. References are no methods: they stand in columns of their own beside every method's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.score.accuracy import SCORES, chance_scores, column_chance_scores
from tasks.score.truth import Truth
from tasks.stack import Role

CHANCE, ROLE_PRIOR, CHANCE_PER_COLUMN = REFERENCES = ("chance", "role_prior", "chance_per_column")
REFERENCE_LABELS = {CHANCE: "chance", ROLE_PRIOR: "role prior", CHANCE_PER_COLUMN: "chance per column"}
"""For people."""


def targeted_roles(truths: Iterable[Truth]) -> frozenset[Role]:
    """Return the roles of all root causes of the campaign, over its cases that are scored."""
    return frozenset(
        candidate.role
        for truth in truths
        if not truth.excluded
        for candidate in truth.candidates
        if candidate.service in truth.services
    )


def reference_scores(truth: Truth, granularity: str, roles: frozenset[Role]) -> dict[str, Mapping[str, float]]:
    """Return by reference and score the exact mean for one case that is scored at ``granularity``.

    ``chance``: every order of the candidates (services or columns) is as likely. ``role_prior``: first, in random
    order, those whose service has one of ``roles``. ``chance_per_column``: columns are drawn, and a service has the
    place of its first one; at metric level that is ``chance``.
    """
    preferred = [candidate for candidate in truth.candidates if candidate.role in roles]
    if granularity == "metric":
        sizes = tuple(len(cause) for cause in truth.metrics.causes)
        chance = chance_scores(truth.metrics.candidates, sizes)
        by_role = chance_scores(sum(candidate.columns for candidate in preferred), sizes)
        return {CHANCE: chance, ROLE_PRIOR: by_role, CHANCE_PER_COLUMN: chance}
    sizes = (1,) * len(truth.services)
    true, others = (
        tuple(sorted(c.columns for c in truth.candidates if (c.service in truth.services) == is_true))
        for is_true in (True, False)
    )
    return {
        CHANCE: chance_scores(len(truth.candidates), sizes),
        ROLE_PRIOR: chance_scores(len(preferred), sizes),
        CHANCE_PER_COLUMN: column_chance_scores(true, others),
    }


def mean_references(truths: Iterable[Truth], granularity: str, roles: frozenset[Role]) -> dict[str, dict[str, float]]:
    """Return by reference and score the mean over the cases."""
    cases = [reference_scores(truth, granularity, roles) for truth in truths]
    return {
        reference: {score: sum(case[reference][score] for case in cases) / len(cases) for score in SCORES}
        for reference in REFERENCES
    }
