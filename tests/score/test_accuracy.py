from __future__ import annotations

from itertools import permutations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.score.accuracy import SCORES, accuracy_at, chance_scores, ranking_scores, reciprocal_rank


def test_known_answers_with_one_root_cause() -> None:
    assert ranking_scores([1], 1) == {"ac1": 1, "ac3": 1, "ac5": 1, "avg5": 1, "mrr": 1}
    assert ranking_scores([3], 1) == pytest.approx({"ac1": 0, "ac3": 1, "ac5": 1, "avg5": 3 / 5, "mrr": 1 / 3})
    assert ranking_scores([6], 1) == pytest.approx({"ac1": 0, "ac3": 0, "ac5": 0, "avg5": 0, "mrr": 1 / 6})
    assert ranking_scores([], 1) == dict.fromkeys(SCORES, 0)


def test_known_answers_with_two_root_causes() -> None:
    """Ranks 1 and 4: AC@1..5 = 1/1, 1/2, 1/2, 2/2, 2/2."""
    assert ranking_scores([4, 1], 2) == pytest.approx({"ac1": 1, "ac3": 0.5, "ac5": 1, "avg5": 4 / 5, "mrr": 1})
    assert ranking_scores([2], 2) == pytest.approx({"ac1": 0, "ac3": 0.5, "ac5": 0.5, "avg5": 2 / 5, "mrr": 0.5})


def test_known_chance_of_five_candidates() -> None:
    harmonic = (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5
    assert chance_scores(5, (1,)) == pytest.approx({"ac1": 0.2, "ac3": 0.6, "ac5": 1, "avg5": 0.6, "mrr": harmonic})


@pytest.mark.parametrize(("candidates", "truths"), [(n, t) for n in range(1, 7) for t in range(1, n + 1)])
def test_chance_is_the_mean_over_all_orders(candidates: int, truths: int) -> None:
    orders = list(permutations(range(1, candidates + 1)))
    every = [ranking_scores(ranks[:truths], truths) for ranks in orders]
    expected = {name: fmean(scores[name] for scores in every) for name in SCORES}
    assert chance_scores(candidates, (1,) * truths) == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [(1,), (2,), (3,), (1, 2), (2, 2), (1, 1, 3), (6,), (5, 2)])
def test_chance_where_several_candidates_name_one_root_cause(sizes: tuple[int, ...]) -> None:
    """The rank of a root cause is the best rank of those that name it: mean over every order of seven metrics."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    every = []
    for order in permutations(range(1, 8)):
        ranks = [min(order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
        every.append(ranking_scores(ranks, len(sizes)))
    expected = {name: fmean(scores[name] for scores in every) for name in SCORES}
    assert chance_scores(7, sizes) == pytest.approx(expected)


def test_chance_of_many_candidates() -> None:
    scores = chance_scores(2500, (1,))
    assert scores["ac5"] == pytest.approx(5 / 2500)
    assert scores["mrr"] == pytest.approx(sum(1 / r for r in range(1, 2501)) / 2500)


rankings = st.integers(1, 12).flatmap(
    lambda candidates: st.permutations(range(1, candidates + 1)).flatmap(
        lambda ranks: st.tuples(st.integers(1, candidates), st.integers(0, candidates)).map(
            lambda sizes: (list(ranks[: min(sizes)]), sizes[0])
        )
    )
)


@settings(deadline=None)
@given(rankings)
def test_properties(ranking: tuple[list[int], int]) -> None:
    """Ranks of the listed root causes, and how many root causes there are."""
    ranks, truths = ranking
    scores = ranking_scores(ranks, truths)
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores == ranking_scores(sorted(ranks), truths)
    if truths == 1:
        accuracy = [accuracy_at(k, ranks, truths) for k in range(1, 13)]
        assert accuracy == sorted(accuracy)
    hits = [accuracy_at(k, ranks, truths) * min(k, truths) for k in range(1, 13)]
    assert hits == sorted(hits)
    better = [max(1, rank - 1) for rank in ranks]
    assert reciprocal_rank(better) >= reciprocal_rank(ranks)
