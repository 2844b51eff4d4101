"""How well one ranking names the truth, and what chance would score. Definitions: docs/scores.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb

TOP = 5
SCORES = ("ac1", "ac3", "ac5", "avg5", "mrr")
"""AC@1, AC@3, AC@5, Avg@5, MRR."""


def accuracy_at(k: int, truth_ranks: Iterable[int], truths: int) -> float:
    """AC@k: the share of the ``truths`` root causes that could be in the first ``k`` places and are.

    ``truth_ranks``: ranks (from 1) of those root causes that the ranking lists; one that it does not list is not found.
    """
    return sum(rank <= k for rank in truth_ranks) / min(k, truths)


def reciprocal_rank(truth_ranks: Iterable[int]) -> float:
    """1 / rank of the first root cause in the ranking; 0 if it lists none."""
    return 1 / min(truth_ranks, default=float("inf"))


def ranking_scores(truth_ranks: Sequence[int], truths: int) -> dict[str, float]:
    """Every score of one ranking by name."""
    accuracy = [accuracy_at(k, truth_ranks, truths) for k in range(1, TOP + 1)]
    return _named(accuracy, reciprocal_rank(truth_ranks))


def chance_scores(candidates: int, truths: int) -> dict[str, float]:
    """The exact mean of every score over all orders of ``candidates`` services of which ``truths`` are root causes."""
    accuracy = [min(k, candidates) * truths / candidates / min(k, truths) for k in range(1, TOP + 1)]
    orders = comb(candidates, truths)
    first_at = (comb(candidates - rank, truths - 1) / orders / rank for rank in range(1, candidates - truths + 2))
    return _named(accuracy, sum(first_at))


def _named(accuracy: list[float], mrr: float) -> dict[str, float]:
    values = (accuracy[0], accuracy[2], accuracy[4], sum(accuracy) / TOP, mrr)
    return dict(zip(SCORES, values, strict=True))
