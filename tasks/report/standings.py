"""Groups the methods by their result on one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.scoreboard import MethodResult


@dataclass(frozen=True)
class Standing:
    """Methods that gave the true service the same rank; ``rank`` None: they gave none, for ``reason``."""

    rank: int | None
    reason: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class FirstNamed:
    """Methods that ranked ``service`` first."""

    service: str
    truth: bool
    methods: tuple[str, ...]


def standings(results: Sequence[MethodResult]) -> tuple[Standing, ...]:
    """Return groups of methods: best rank first, then methods that did not name the true service, then failures.

    The best ranked of several true services counts. Empty for a case without a true service.
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
    """Return groups of methods by the service that they rank first, largest group first."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for result in results:
        if result.suspects:
            first = result.suspects[0]
            groups.setdefault((first.service, first.truth), []).append(result.method)
    found = (FirstNamed(service, truth, tuple(names)) for (service, truth), names in groups.items())
    return tuple(sorted(found, key=lambda group: (-len(group.methods), group.service)))
