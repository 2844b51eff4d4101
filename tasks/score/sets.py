"""Scores of what a method says beyond a rank: the set of roots, their kinds, and the order of roots and victims.

Only for methods that say how many roots there are. Definitions: docs/scores.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.rca.method import UNKNOWN_KIND, Finding
from tasks.rca.run.pair import PairResult
from tasks.score.truth import Broken, Truth

SIMULTANEOUS_S = 1.0
"""Faults that begin within this time are at once: an executor needs that long to act."""

Named = tuple[str, str]
"""(service, kind)."""


@dataclass(frozen=True)
class SetMatch:
    """Root findings against roots, matched one to one.

    ``answers``, ``truths``: distinct (service, kind) on either side; ``hits``: pairs with the right kind;
    ``wrong_kinds``: pairs on the right service with another kind. ``services_named``, ``services_true``,
    ``services_hit``: the same for services alone. ``kinds``: (true kind, named kind) of every pair.
    """

    answers: int
    truths: int
    hits: int
    wrong_kinds: int
    services_named: int
    services_true: int
    services_hit: int
    kinds: tuple[tuple[str, str], ...]

    @property
    def unknown_kinds(self) -> int:
        return sum(named == UNKNOWN_KIND for _, named in self.kinds)

    def scores(self) -> dict[str, float]:
        """Return precision, recall and F1 by name, strict (``set_…``) and of services (``service_…``), and
        ``set_exact``: 1 if the strict set is the truth."""
        strict = _precision_recall_f1(self.hits, self.answers, self.truths)
        services = _precision_recall_f1(self.services_hit, self.services_named, self.services_true)
        names = ("precision", "recall", "f1")
        return {
            **{f"set_{name}": value for name, value in zip(names, strict, strict=True)},
            **{f"service_{name}": value for name, value in zip(names, services, strict=True)},
            "set_exact": float(self.hits == self.answers == self.truths),
        }


def _precision_recall_f1(hits: int, answers: int, truths: int) -> tuple[float, float, float]:
    """Nobody named: precision is 0, not undefined; a method must not gain by silence."""
    return hits / answers if answers else 0.0, hits / truths, 2 * hits / (answers + truths)


def roots_named(findings: Iterable[Finding] | None) -> tuple[Named, ...]:
    """Return the (service, kind) that findings name as roots, each once, in their order. A finding without a service
    (a common cause outside the candidates) names none."""
    found = ((f.service, f.kind) for f in findings or () if f.role == "root" and f.service is not None)
    return tuple(dict.fromkeys(found))


def match_sets(findings: Iterable[Finding] | None, roots: Sequence[Broken]) -> SetMatch:
    """Match root findings with ``roots`` (at least one), greedily and one to one.

    A finding fits a root of its service whose kind it names, else one whose group it names, else it is a wrong kind.
    """
    named = roots_named(findings)
    true = list({(root.service, root.kind): root for root in roots}.values())
    open_answers, open_roots = list(named), list(true)
    pairs: list[tuple[str, str]] = []
    hits = 0
    fits = (
        lambda kind, root: kind == root.kind,
        lambda kind, root: kind == root.group,
        lambda kind, root: True,
    )
    for level, fit in enumerate(fits):
        for service, kind in list(open_answers):
            root = next((root for root in open_roots if root.service == service and fit(kind, root)), None)
            if root is not None:
                open_answers.remove((service, kind))
                open_roots.remove(root)
                pairs.append((root.kind, kind))
                hits += level < 2
    services_named, services_true = {service for service, _ in named}, {root.service for root in true}
    return SetMatch(
        answers=len(named),
        truths=len(true),
        hits=hits,
        wrong_kinds=len(pairs) - hits,
        services_named=len(services_named),
        services_true=len(services_true),
        services_hit=len(services_named & services_true),
        kinds=tuple(sorted(pairs)),
    )


@dataclass(frozen=True)
class OrderMatch:
    """How many pairs of a case are in the right order: (root, victim), and (earlier root, later root)."""

    victim_pairs: int
    victims_right: int
    root_pairs: int
    roots_right: int

    def scores(self) -> dict[str, float]:
        """Return ``victim_order``, ``root_first`` and ``order`` by name; NaN where there is no pair."""
        pairs = self.victim_pairs + self.root_pairs
        return {
            "victim_order": self.victims_right / self.victim_pairs if self.victim_pairs else math.nan,
            "root_first": float(self.victims_right == self.victim_pairs) if self.victim_pairs else math.nan,
            "order": (self.victims_right + self.roots_right) / pairs if pairs else math.nan,
        }


def match_order(result: PairResult, truth: Truth) -> OrderMatch:
    """Compare the order in which ``result`` puts roots and victims with that in which they broke."""
    rank = {suspect.service: suspect.rank for suspect in result.suspects}
    placed = _placed(result.findings)
    begin = _first_begin(truth.roots)
    victims = [
        (root, victim)
        for victim, later in _first_begin(truth.victims).items()
        for root, earlier in begin.items()
        if victim not in begin and earlier <= later
    ]
    roots = [(a, b) for a in begin for b in begin if begin[b] - begin[a] > SIMULTANEOUS_S]
    return OrderMatch(
        victim_pairs=len(victims),
        victims_right=sum(_before(a, b, placed, rank) for a, b in victims),
        root_pairs=len(roots),
        roots_right=sum(a in placed and b in placed and _before(a, b, placed, rank) for a, b in roots),
    )


def _first_begin(broken: Iterable[Broken]) -> dict[str, float]:
    begin: dict[str, float] = {}
    for each in broken:
        begin[each.service] = min(each.begin_s, begin.get(each.service, each.begin_s))
    return begin


@dataclass(frozen=True)
class _Placed:
    """Where findings put a service in time."""

    root: bool
    onset_s: float | None


def _placed(findings: Iterable[Finding] | None) -> dict[str, _Placed]:
    found: dict[str, _Placed] = {}
    for finding in findings or ():
        if finding.service is None:
            continue
        seen = found.get(finding.service, _Placed(False, None))
        onsets = [onset for onset in (seen.onset_s, finding.onset_s) if onset is not None]
        found[finding.service] = _Placed(seen.root or finding.role == "root", min(onsets, default=None))
    return found


def _before(first: str, second: str, placed: Mapping[str, _Placed], rank: Mapping[str, int]) -> bool:
    """Return whether ``first`` is put before ``second``: by role, else by onset, else by rank."""
    silent = _Placed(False, None)
    a, b = placed.get(first, silent), placed.get(second, silent)
    if a.root != b.root:
        return a.root
    if a.onset_s is not None and b.onset_s is not None and a.onset_s != b.onset_s:
        return a.onset_s < b.onset_s
    return rank.get(first, math.inf) < rank.get(second, math.inf)


def kind_counts(matches: Iterable[SetMatch]) -> Counter[tuple[str, str]]:
    """Count (true kind, named kind) over cases."""
    return Counter(pair for match in matches for pair in match.kinds)
