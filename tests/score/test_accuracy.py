from __future__ import annotations

from itertools import permutations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.score.accuracy import (
    SCORES,
    accuracy_at,
    chance_scores,
    column_chance_scores,
    ranking_scores,
    reciprocal_rank,
    tail_scores,
)


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


def completed(ranks: list[int], absent: list[int], listed: int, rest: int) -> dict[str, float]:
    """The mean over every order of the rest behind the list, one by one; root cause i is named by ``absent[i]``."""
    ends = [sum(absent[: i + 1]) for i in range(len(absent))]
    every = []
    for order in permutations(range(listed + 1, listed + rest + 1)):
        later = [min(order[end - size : end]) for size, end in zip(absent, ends, strict=True)]
        every.append(ranking_scores([*ranks, *later], len(ranks) + len(absent)))
    return {name: fmean(scores[name] for scores in every) for name in SCORES}


lists = st.tuples(
    st.integers(0, 5), st.integers(0, 6), st.integers(0, 3), st.lists(st.integers(1, 3), max_size=3)
).filter(lambda drawn: sum(drawn[3]) <= drawn[1] and min(drawn[2], drawn[0]) + len(drawn[3]) > 0)


@settings(deadline=None, max_examples=60)
@given(lists, st.randoms())
def test_a_random_tail_is_the_mean_over_all_tails(drawn: tuple[int, int, int, list[int]], random) -> None:
    listed, rest, found, absent = drawn
    ranks = sorted(random.sample(range(1, listed + 1), min(found, listed)))
    scores = tail_scores(ranks, absent, listed, rest)
    assert scores == pytest.approx(completed(ranks, absent, listed, rest))
    as_given = ranking_scores(ranks, len(ranks) + len(absent))
    assert all(scores[name] >= as_given[name] - 1e-12 for name in SCORES)
    if not absent:
        assert scores == pytest.approx(as_given)


def test_a_tail_behind_an_empty_list_is_chance_and_behind_a_full_one_nothing() -> None:
    assert tail_scores([], [1, 1], 0, 7) == pytest.approx(dict(chance_scores(7, (1, 1))))
    assert tail_scores([2], [], 5, 0) == ranking_scores([2], 1)


def test_known_answers_of_a_tail() -> None:
    """Two of five are listed, the root cause is none of them: it is third, fourth or fifth."""
    assert tail_scores([], [1], 2, 3) == pytest.approx(
        {"ac1": 0, "ac3": 1 / 3, "ac5": 1, "avg5": (1 / 3 + 2 / 3 + 1) / 5, "mrr": (1 / 3 + 1 / 4 + 1 / 5) / 3}
    )
    assert tail_scores([1], [1], 2, 3)["ac3"] == pytest.approx((1 + 1 / 3) / 2)
    assert tail_scores([], [1], 40, 6) == pytest.approx(
        dict.fromkeys(SCORES, 0) | {"mrr": sum(1 / r for r in range(41, 47)) / 6}
    )


def drawn_by_column(truths: tuple[int, ...], others: tuple[int, ...]) -> dict[str, float]:
    """Every order of the columns is as likely; services without one follow in every order."""
    columns = [*truths, *others]
    seen, silent = ([i for i, c in enumerate(columns) if bool(c) == known] for known in (True, False))
    tails = list(permutations(silent))
    scores = dict.fromkeys(SCORES, 0.0)
    for order in permutations(seen):
        left, likely = sum(columns), 1.0
        for service in order:
            likely *= columns[service] / left
            left -= columns[service]
        for tail in tails:
            place = {service: rank for rank, service in enumerate((*order, *tail), 1)}
            for name, value in ranking_scores([place[i] for i in range(len(truths))], len(truths)).items():
                scores[name] += likely / len(tails) * value
    return scores


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=3), st.lists(st.integers(0, 30), max_size=4))
def test_chance_per_column_is_the_mean_over_all_orders_of_the_columns(truths: list[int], others: list[int]) -> None:
    found = column_chance_scores(tuple(truths), tuple(others))
    assert found == pytest.approx(drawn_by_column(tuple(truths), tuple(others)), abs=1e-9)


def test_the_first_column_counted_one_by_one() -> None:
    """Three columns of one service and one each of two: 5! orders of the columns themselves."""
    owners = (0, 0, 0, 1, 2)
    every = []
    for order in permutations(owners):
        first_seen = list(dict.fromkeys(order))
        every.append(ranking_scores([first_seen.index(1) + 1], 1))
    expected = {name: fmean(scores[name] for scores in every) for name in SCORES}
    assert column_chance_scores((1,), (3, 1)) == pytest.approx(expected)


@pytest.mark.parametrize(("services", "columns"), [(5, 1), (5, 9), (46, 3), (300, 40), (2000, 1)])
def test_equal_numbers_of_columns_are_plain_chance(services: int, columns: int) -> None:
    found = column_chance_scores((columns,), (columns,) * (services - 1))
    assert found == pytest.approx(dict(chance_scores(services, (1,))), rel=1e-9)
    two = column_chance_scores((columns,) * 2, (columns,) * (services - 2))
    assert two == pytest.approx(dict(chance_scores(services, (1, 1))), rel=1e-9)


def test_chance_per_column_of_many_columns_agrees_with_drawing() -> None:
    columns = np.array([7, 700, *range(1, 45)] * 3)
    rng = np.random.default_rng(0)
    times = rng.exponential(1 / columns, size=(40_000, len(columns)))
    rank = 1 + (times < times[:, [1]]).sum(axis=1)
    others = tuple(np.delete(columns, 1).tolist())
    found = column_chance_scores((700,), others)
    for name, drawn in (("ac1", rank == 1), ("ac5", rank <= 5), ("mrr", 1 / rank)):
        assert found[name] == pytest.approx(drawn.mean(), abs=0.01)
