"""Which cases a page shows one by one: all of a campaign of ordinary size, a choice of one with thousands."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from tasks.report.scoreboard import Scoreboard

UNKNOWN = ""


@dataclass(frozen=True)
class Limits:
    """The most cases that a page lists in tables, and gives a section of their own."""

    listed: int = 500
    detailed: int = 100


LIMITS = Limits()


@dataclass(frozen=True)
class Shown:
    """Case ids: ``detailed`` are among ``listed``."""

    listed: frozenset[str]
    detailed: frozenset[str]


def choose(cases: Sequence[str], board: Scoreboard | None, limits: Limits, asked_for: Collection[str] = ()) -> Shown:
    """Choose among ``cases``: first those ``asked_for``, then of every fault in turn the one that the fewest methods
    got right."""
    there = set(cases)
    wanted = [case for case in asked_for if case in there]
    order = list(dict.fromkeys((*wanted, *_in_turn(cases, board))))
    listed = max(limits.listed, len(wanted))
    return Shown(frozenset(order[:listed]), frozenset(order[: max(min(limits.detailed, listed), len(wanted))]))


def _in_turn(cases: Sequence[str], board: Scoreboard | None) -> Iterator[str]:
    """Yield every case: of each fault the hardest, of each the second hardest, and so on; ties by case id."""
    faults: dict[str, str] = {}
    if board is not None:
        first = board.files.rankings.drop_duplicates("case_id")
        faults = dict(zip(first["case_id"], first["fault"], strict=True))
    groups: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: (_named_first(case, board), case)):
        groups.setdefault(faults.get(case, UNKNOWN), []).append(case)
    turns = zip_longest(*(groups[fault] for fault in sorted(groups)))
    return (case for case in chain.from_iterable(turns) if case is not None)


def _named_first(case: str, board: Scoreboard | None) -> float:
    """Return the share of methods that named a root first; 1 if the case is not scored."""
    results = board.results.get(case, ()) if board is not None else ()
    if not results or results[0].excluded:
        return 1.0
    return sum(1 in islice(result.truth_ranks, 1) for result in results) / len(results)
