"""How well one ranking names the truth, and what chance would score. Definitions: docs/scores.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb
from types import MappingProxyType

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


@lru_cache(maxsize=4096)
def chance_scores(candidates: int, sizes: tuple[int, ...]) -> Mapping[str, float]:
    """The exact mean of every score over all orders of ``candidates``.

    ``sizes``: for each root cause, how many of the candidates name it (1 for a service; no candidate names two).
    """
    accuracy = [
        sum(_chance_of_a_hit(candidates, size, k) for size in sizes) / min(k, len(sizes)) for k in range(1, TOP + 1)
    ]
    named = sum(sizes)
    orders = comb(candidates, named)
    first_at = (comb(candidates - rank, named - 1) / orders / rank for rank in range(1, candidates - named + 2))
    return MappingProxyType(_named(accuracy, sum(first_at)))


def _chance_of_a_hit(candidates: int, size: int, k: int) -> float:
    """That one of ``size`` candidates is among the first ``k``."""
    misses = comb(candidates - size, k)
    return 1.0 if misses == 0 else 1 - misses / comb(candidates, k)


def _named(accuracy: list[float], mrr: float) -> dict[str, float]:
    values = (accuracy[0], accuracy[2], accuracy[4], sum(accuracy) / TOP, mrr)
    return dict(zip(SCORES, values, strict=True))
