from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tasks.rca.method import Method, Ranking
from tasks.rca.registry import get_method
from tasks.rca.run.pair import order, order_metrics, pair_rng, run_pair
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import view_of

SERVICES = ("a", "b", "c", "d")
VIEW = view_of({(service, "x"): [0.0, 1, 0, 1, 5] for service in SERVICES}, normal_rows=4)


def ranked(scores: dict[str, float], seed: int = 0) -> list[str]:
    return [s.service for s in order(Ranking.of_services(scores), SERVICES, np.random.default_rng(seed))]


def test_higher_scores_come_first_whatever_the_order_of_the_ranking() -> None:
    assert ranked({"b": 1, "d": 3, "a": 2}) == ["d", "a", "b"]
    assert ranked({"a": 2, "b": 1, "d": 3}) == ["d", "a", "b"]


def test_ties_are_marked_and_broken_at_random() -> None:
    suspects = order(Ranking.of_services({"a": 1, "b": 2, "c": 1, "d": 1}), SERVICES, np.random.default_rng(0))
    assert [s.rank for s in suspects] == [1, 2, 3, 4]
    assert [s.tied for s in suspects] == [False, True, True, True]
    seconds = Counter(ranked({"a": 1, "b": 2, "c": 1, "d": 1}, seed)[1] for seed in range(1500))
    assert all(abs(seconds[service] / 1500 - 1 / 3) < 0.05 for service in "acd")


def test_rounding_does_not_break_a_tie() -> None:
    suspects = order(Ranking.of_services({"a": 0.3, "b": 0.1 + 0.2, "c": 0.31}), SERVICES, np.random.default_rng(0))
    assert [s.tied for s in suspects] == [False, True, True]


def test_worst_metric_is_named() -> None:
    ranking = Ranking((("a", 3.0), ("b", 2.0)), (("a", "x", 1.0), ("a", "y", 3.0), ("b", "z", 2.0)))
    assert [s.metric for s in order(ranking, SERVICES, np.random.default_rng(0))] == ["y", "z"]


COLUMNS = [(service, metric) for service in SERVICES for metric in ("x", "y")]


def named(*scores: tuple[str, str, float], seed: int = 0) -> list[tuple[str, str]]:
    ranking = Ranking(tuple({service: 0.0 for service, _, _ in scores}.items()), scores)
    found = order_metrics(ranking, COLUMNS, np.random.default_rng(seed))
    assert [suspect.rank for suspect in found] == list(range(1, len(found) + 1))
    return [(suspect.service, suspect.metric) for suspect in found]


def test_metrics_come_by_falling_score_whatever_their_order() -> None:
    assert named(("a", "x", 1), ("b", "y", 3), ("a", "y", 2)) == [("b", "y"), ("a", "y"), ("a", "x")]
    assert named(("a", "y", 2), ("a", "x", 1), ("b", "y", 3)) == [("b", "y"), ("a", "y"), ("a", "x")]


def test_only_columns_of_the_view_take_a_rank_among_the_metrics() -> None:
    """What a method counts in logs and spans tells on the service; it is no metric of the case."""
    assert named(("a", "log lines", 3), ("b", "x", 2), ("c", "span_latency x", 1), ("d", "y", 1)) == [
        ("b", "x"),
        ("d", "y"),
    ]
    assert named(("d", "logs", 1), ("b", "spans", 1)) == []


def test_ties_between_metrics_are_broken_at_random() -> None:
    first = Counter(named(*((*column, 1.0) for column in COLUMNS), seed=seed)[0] for seed in range(1600))
    assert all(abs(first[column] / 1600 - 1 / 8) < 0.04 for column in COLUMNS)


def test_parameters_reach_the_method() -> None:
    falls = view_of({("a", "x"): [5.0, 6, 5, 6, 0], ("b", "x"): [5.0, 6, 5, 6, 8]}, normal_rows=4)
    leaders = [
        run_pair(get_method("nsigma"), falls, seed=1, parameters=parameters).suspects[0].service
        for parameters in ({}, {"direction": "up"})
    ]
    assert leaders == ["a", "b"]


def test_random_numbers_depend_on_everything_and_on_nothing_else() -> None:
    keys = [(1, "m", "k", "p"), (2, "m", "k", "p"), (1, "n", "k", "p"), (1, "m", "l", "p"), (1, "m", "k", "q")]
    draws = [pair_rng(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws[0] == pair_rng(*keys[0]).random() == pytest.approx(0.40571355)


@pytest.mark.parametrize(
    ("method", "status", "message"),
    [
        ("test_raises", "error", "ZeroDivisionError: division by zero"),
        ("test_named_error", "error", "no such thing as a cause"),
        ("test_no_ranking", "invalid", "returned list, not a Ranking"),
        ("test_malformed", "invalid", "returned a malformed Ranking: too many values to unpack"),
        ("test_stranger", "invalid", "returned 'moon', which is not a candidate service"),
        ("test_duplicates", "invalid", "returned a service twice"),
        ("test_duplicate_metrics", "invalid", "returned a metric twice"),
        ("test_nan", "invalid", "returned a score that is not finite"),
        ("test_finds_a_stranger", "invalid", "returned a finding on 'moon' which is not a candidate service"),
    ],
)
def test_a_failure_is_named_and_ranks_nothing(method: str, status: str, message: str) -> None:
    result = run_pair(get_method(method), VIEW, seed=1)
    assert (result.status, result.suspects) == (status, ())
    assert result.message.startswith(message)


def test_a_missing_signal_is_a_named_failure() -> None:
    blind = dataclasses.replace(VIEW, metrics=VIEW.metrics.iloc[:0])
    result = run_pair(get_method("nsigma"), blind, seed=1)
    assert (result.status, result.message) == ("missing", "needs metrics: the case has none")


def test_an_empty_ranking_is_a_ranking() -> None:
    result = run_pair(get_method("test_silent"), VIEW, seed=1)
    assert (result.status, result.suspects) == ("ok", ())


def needing(*needs: str) -> Method:
    known = get_method("nsigma")
    return dataclasses.replace(known, needs=frozenset(needs))


def test_a_missing_metric_is_named() -> None:
    view = view_of({("a", "latency_p90"): [1, 2, 3, 4], ("b", "cpu_usage"): [1, 1, 2, 3]}, normal_rows=2)
    assert run_pair(needing("metrics", "metrics:latency_p90", "metrics:cpu_usage"), view, 1).status == "ok"
    result = run_pair(needing("metrics:latency_p90", "metrics:kv_cache_usage", "metrics:ttft_mean"), view, 1)
    assert (result.status, result.message) == (
        "missing",
        "needs the metrics kv_cache_usage, ttft_mean: no service has a sample in what the profile shows",
    )
    result = run_pair(needing("logs", "metrics:kv_cache_usage"), view, 1)
    assert result.message == (
        "needs logs: the case has none; needs the metric kv_cache_usage: no service has a sample in what the profile "
        "shows"
    )


def test_a_missing_sli_says_which_front_end_would_do() -> None:
    columns = {("web", "cpu_usage"): [1.0, 2], ("cart", "latency_p50"): [1.0, 2], ("db", "ttft_mean"): [1.0, 2]}
    view = view_of(columns, normal_rows=1)
    result = run_pair(needing("sli"), view, 1)
    assert (result.status, result.message) == (
        "missing",
        "needs sli: the case has none (no requests, and neither 'web' nor what it is known to call has spans or a "
        "latency metric; with --front-end give one that has: cart)",
    )
    bare = view_of({("web", "cpu_usage"): [1, 2]}, normal_rows=1)
    assert run_pair(needing("sli", "ttft"), bare, 1).message == (
        "needs sli, ttft: the case has none (no requests, and no service has spans or a latency metric)"
    )
