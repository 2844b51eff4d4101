"""How well the methods did on one case: grouped by what they said, not listed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.scoreboard import MethodResult


@dataclass(frozen=True)
class Standing:
    """``methods`` that gave the true service the same rank. ``rank``: None where they gave none, for ``reason``."""

    rank: int | None
    reason: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class FirstNamed:
    """``methods`` that named ``service`` first."""

    service: str
    truth: bool
    methods: tuple[str, ...]


def standings(results: Sequence[MethodResult]) -> tuple[Standing, ...]:
    """Return the groups: best rank first, then methods that did not name the true service, then failures.

    Of several true services the best ranked counts. Empty for a case without a true service.
    """
    groups: dict[tuple[int, int, str], list[str]] = {}
    for result in results:
        if result.truth_ranks:
            key = 0, result.truth_ranks[0], ""
        elif not result.ranked:
            key = 2, 0, "failed"
        elif result.excluded:
            continue
        else:
            key = 1, 0, "not named"
        groups.setdefault(key, []).append(result.method)
    return tuple(Standing(rank or None, why, tuple(names)) for (_, rank, why), names in sorted(groups.items()))


def first_named(results: Sequence[MethodResult]) -> tuple[FirstNamed, ...]:
    """Return the groups, the service that most methods name first on top."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for result in results:
        if result.suspects:
            first = result.suspects[0]
            groups.setdefault((first.service, first.truth), []).append(result.method)
    found = (FirstNamed(service, truth, tuple(names)) for (service, truth), names in groups.items())
    return tuple(sorted(found, key=lambda group: (-len(group.methods), group.service)))
