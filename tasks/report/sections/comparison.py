"""Significance of differences between methods: average ranks, cliques and pairwise comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from markupsafe import Markup

from tasks.html.formatting import p_value
from tasks.report.critical_difference import critical_difference
from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.accuracy import COMPARED_SCORES
from tasks.score.files import number


@section(link="Comparison", title="Which differences are more than luck?", order=30)
def render(report: ReportData) -> Markup | None:
    board = report.scoreboard
    if board is None or not board.services.groups:
        return None
    found = comparisons(board.files.average_ranks, board.files.comparisons)
    plots = None if found is None else [(each, critical_difference(each)) for each in found]
    return rendered("comparison.html.j2", report, comparisons=plots)


@dataclass(frozen=True)
class Pair:
    """Comparison of two methods on the same cases, from the first one's view: mean difference, wins, ties, losses.
    ``mcnemar``, ``mcnemar_holm``: exact p values of AC@1; None for another score."""

    difference: float
    wins: int
    ties: int
    losses: int
    p: float
    p_holm: float
    significant: bool
    mcnemar: float | None = None
    mcnemar_holm: float | None = None

    def reversed(self) -> Pair:
        return replace(self, difference=-self.difference, wins=self.losses, losses=self.wins)


@dataclass(frozen=True)
class Comparison:
    """Comparison by one score. ``average_ranks``: by method, best first. ``cliques``: neighbours in that order without
    a significant difference. ``pairs``: in both directions. ``friedman_p``: None where the test does not apply."""

    score: str
    cases: int
    friedman_p: float | None
    average_ranks: Mapping[str, float]
    cliques: tuple[tuple[str, ...], ...]
    pairs: Mapping[tuple[str, str], Pair]

    @property
    def couples(self) -> int:
        return len(self.pairs) // 2

    @property
    def significant(self) -> int:
        return sum(pair.significant for pair in self.pairs.values()) // 2

    def statements(self, level: float | None) -> tuple[str, ...]:
        """Return the results as plain sentences. ``level``: significance level, None if unknown."""
        return (*self._about_all(level), *self._about_pairs(level))

    def _about_all(self, level: float | None) -> tuple[str, ...]:
        if self.friedman_p is None:
            return ("Friedman's test says nothing here: it needs three methods and two cases that do not all tie.",)
        shown = f"Friedman's test, p {p_value(self.friedman_p)}"
        if level is None:
            return (f"{shown}: how often luck alone would make methods that are all alike differ this much.",)
        if self.friedman_p <= level:
            return (f"{shown}: the methods are not all alike.",)
        return (f"{shown}: that all methods are alike cannot be ruled out.",)

    def _about_pairs(self, level: float | None) -> tuple[str, ...]:
        if self.significant:
            differ = f"{self.significant} of {self.couples} pairs of methods differ significantly"
            return (f"{differ} with {_cases(self.cases)}; the order of the others may be luck.",)
        nothing = f"Nothing is significant with {_cases(self.cases)}: no two methods can be told apart."
        needed = fewest_cases(self.couples, level) if level is not None else 0
        if self.cases >= needed:
            return (nothing,)
        return (
            nothing,
            f"It could not be otherwise: for {self.couples} pairs at least {needed} cases are needed before even a "
            "method that wins every case is significantly better.",
        )


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"


def fewest_cases(couples: int, level: float) -> int:
    """Return the number of cases below which no pair can be significant.

    The least p value of the exact paired test is 2 / 2^cases; Holm's correction multiplies it by the number of pairs.
    """
    return math.ceil(1 + math.log2(max(couples, 1) / level) - 1e-9)


def comparisons(average_ranks: pd.DataFrame | None, pairs: pd.DataFrame | None) -> tuple[Comparison, ...] | None:
    """Return the comparisons in the order of ``COMPARED_SCORES``; None when the score stage made none."""
    if average_ranks is None or pairs is None:
        return None
    tables = ((score, average_ranks[average_ranks["score"] == score]) for score in COMPARED_SCORES)
    return tuple(_comparison(score, ranks, pairs[pairs["score"] == score]) for score, ranks in tables if len(ranks))


def _comparison(score: str, ranks: pd.DataFrame, pairs: pd.DataFrame) -> Comparison:
    ranks = ranks.sort_values("average_rank", kind="stable")
    cliques: dict[int, list[str]] = {}
    for method, numbers in zip(ranks["method"], ranks["cliques"], strict=True):
        for clique in filter(None, str(numbers).split("+")):
            cliques.setdefault(int(clique), []).append(str(method))
    both_ways: dict[tuple[str, str], Pair] = {}
    for row in pairs.to_dict("records"):
        counts = int(row["wins"]), int(row["ties"]), int(row["losses"])
        tested = float(row["p"]), float(row["p_holm"]), bool(row["significant"])
        exact = (number(row.get(name, math.nan)) for name in ("mcnemar_p", "mcnemar_p_holm"))
        pair = Pair(float(row["difference"]), *counts, *tested, *exact)
        both_ways[row["method_a"], row["method_b"]] = pair
        both_ways[row["method_b"], row["method_a"]] = pair.reversed()
    return Comparison(
        score=score,
        cases=int(ranks["cases"].iloc[0]),
        friedman_p=number(ranks["friedman_p"].iloc[0]),
        average_ranks=dict(zip(ranks["method"].astype(str), ranks["average_rank"].astype(float), strict=True)),
        cliques=tuple(tuple(cliques[clique]) for clique in sorted(cliques)),
        pairs=both_ways,
    )
