from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.trace import tracerca as module
from tasks.rca.trace.tracerca import _closed_sets, _service_scores, _TraceKinds, tracerca
from tasks.rca.view import CaseView
from tests.rca.traces import Call, call, no_metrics, with_traces
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def tree(start: float, nested: dict[str, dict], seconds: dict[str, float], **other: Any) -> Call:
    """One service calls those nested in it; each takes its ``seconds``, 1 if not named."""
    (service, children), *_ = nested.items()
    below = [tree(start, {child: deeper}, seconds, **other) for child, deeper in children.items()]
    return call(service, start, seconds.get(service, 1.0), *below, **other)


def history(*shapes: dict[str, dict]) -> list[Call]:
    """Each shape with all durations 0.9 and with all 1.1: mean 1, standard deviation 0.1."""
    every = "abcdefgh"
    return [
        tree(-10.0 * (i + 1), shape, dict.fromkeys(every, seconds))
        for seconds in (0.9, 1.1)
        for i, shape in enumerate(shapes)
    ]


def scores(roots: list[Call], **parameters: Any) -> dict[str, float]:
    return dict(tracerca(with_traces(no_metrics(), roots), RNG, **parameters).services)


THROUGH_A = [{"b": {"a": {x: {}, y: {}}}} for x, y in ("de", "cd", "ce")]


def test_known_answer() -> None:
    """b calls a in three slow traces; two fast ones do not pass a. (The paper's own example.)

    {a, b} are in all slow traces and in no fast one: index 1. In it, a has 3 traces with a slow call of it and none
    with a slow call by it, b has 3 and 3. In {a, b, c} (index 2/3) c has none. f is in no slow trace.
    """
    fast = [{"b": {"c": {}, "d": {}}}, {"b": {"f": {}}}]
    slow = {"a": 5.0, "b": 5.0}
    late = [tree(10, shape, slow) for shape in THROUGH_A] + [tree(50, shape, {}) for shape in fast]
    assert scores([*history(*THROUGH_A, *fast), *late]) == pytest.approx({"a": 3, "b": 0, "c": 0, "d": 0, "e": 0})


def test_a_fault_that_needs_two_services_is_found_where_they_meet() -> None:
    """a is slow only when b calls it; d calls a too, and b calls c too."""
    both, other_caller, other_called = {"f": {"b": {"a": {}}}}, {"f": {"d": {"a": {}}}}, {"f": {"b": {"c": {}}}}
    shapes = (both, other_caller, other_called)
    late = [tree(10 * i + 10, both, {"a": 5.0, "b": 5.0, "f": 5.0}) for i in range(4)]
    late += [tree(10 * i + 90, shape, {}) for i in range(4) for shape in (other_caller, other_called)]
    assert scores([*history(*shapes), *late]) == pytest.approx({"a": 4, "b": 0, "f": 0})


def test_the_front_end_is_not_blamed_for_containing_its_children() -> None:
    shape = {"f": {"b": {"a": {}}}}
    for faulty, slow in (("a", "abf"), ("b", "bf"), ("f", "f")):
        ranked = scores([*history(shape), tree(10, shape, dict.fromkeys(slow, 9.0)), tree(20, shape, {})])
        assert max(ranked, key=ranked.__getitem__) == faulty
        assert sum(score > 0 for score in ranked.values()) == 1


def test_own_time_needs_no_containment() -> None:
    """With self time only the call of a is abnormal: its caller and a tie, and f, above, scores 0."""
    own = [call("f", t, 3 * s, call("b", t, 2 * s, call("a", t, s))) for t, s in ((-20, 0.9), (-10, 1.1))]
    late = call("f", 10, 11.0, call("b", 10, 10.0, call("a", 10, 9.0)))
    assert scores([*own, late], duration="self") == pytest.approx({"a": 1, "b": 1, "f": 0})
    assert scores([*own, late], duration="total") == pytest.approx({"a": 1, "b": 0, "f": 0})


def test_spans_within_a_service_are_no_invocations() -> None:
    """A replica's own span below its server span must not cancel the call of the replica."""

    def trace(start: float, seconds: float) -> Call:
        return call("f", start, seconds, call("a", start, seconds, call("a", start, seconds)))

    assert scores([trace(-20, 0.9), trace(-10, 1.1), trace(10, 9.0)]) == pytest.approx({"a": 1, "f": 0})


def test_errors_are_a_feature() -> None:
    shape = {"f": {"a": {}}}
    late = [call("f", 10, 1.0, call("a", 10, 1.0, status=500)), tree(20, shape, {})]
    ranked = scores([*history(shape), *late])
    assert ranked == pytest.approx({"a": 0.5, "f": 0.5})  # the call of a is abnormal, of f and by a nothing is


def test_a_feature_that_did_not_change_is_not_used() -> None:
    """f takes 0.9 or 1.1 before and after: one standard deviation from its mean, but no more often than before."""
    shape = {"f": {"a": {}}}
    late = [tree(10 * i, shape, {"f": 1 + 0.1001 * (-1) ** i, "a": 9.0}) for i in range(1, 5)]
    assert scores([*history(shape), *late]) == pytest.approx({"a": 4, "f": 4})
    every = {"feature_threshold": -1.0, "feature_margin": -1.0, "anomaly_threshold": 1.0}
    assert scores([*history(shape), *late], **every) == pytest.approx({"a": 4, "f": 0})


def test_a_feature_must_grow_by_a_margin_and_stray_by_three_deviations() -> None:
    """f strays by 2 deviations after the fault (1 before): too little for the cut, and 1.4 are within the margin."""
    shape = {"f": {"a": {}}}
    for f, cut, blamed in ((1.2, 3.0, False), (1.2, 1.5, False), (1.24, 1.5, True), (1.24, 3.0, False)):
        late = [tree(10 * i, shape, {"f": f, "a": 9.0}) for i in range(1, 5)]
        found = scores([*history(shape), *history(shape), *late], anomaly_threshold=cut)
        assert found == pytest.approx({"a": 4, "f": 0 if blamed else 4})
    # a alone: nothing passes the margin, so what passes without it counts
    weak = [tree(10 * i, shape, {"a": 1.19}) for i in range(1, 5)]
    assert scores([*history(shape), *weak], anomaly_threshold=1.5) == pytest.approx({"a": 4, "f": 4})


def test_a_tiny_normal_deviation_has_a_floor_of_a_hundredth_of_the_mean() -> None:
    shape = {"f": {"a": {}}}
    steady = [tree(-10.0 * i, shape, {"f": 1.0, "a": 1 + 1e-5 * (-1) ** i}) for i in range(1, 11)]

    def late(seconds: float) -> list[Call]:
        return [tree(10.0 * i, shape, {"a": seconds}) for i in range(1, 5)]

    with pytest.raises(MethodError, match="no abnormal trace"):
        scores([*steady, *late(1.02)])
    assert scores([*steady, *late(1.04)]) == pytest.approx({"a": 4, "f": 4})


def test_two_equal_normal_calls_make_no_later_one_abnormal_beyond_doubt() -> None:
    """Two samples vouch for four deviations, however close together they are."""
    shape = {"f": {"a": {}}}
    before = [tree(-20, shape, {}), tree(-10, shape, {})]
    late = [tree(10.0 * i, shape, {"a": 9.0}) for i in range(1, 5)]
    assert scores([*before, *late])["a"] == 4
    with pytest.raises(MethodError, match="no abnormal trace"):
        scores([*before, *late], anomaly_threshold=4.3)


def test_a_service_whose_spans_stop_comes_first_unless_its_caller_stopped_too() -> None:
    """b stops at the fault and so c, which only b calls, has none either; d goes on."""
    whole, left = {"f": {"b": {"c": {}}, "d": {}}}, {"f": {"d": {}}}
    before = [tree(-2.0 * i, whole, dict.fromkeys("bcd", 0.5)) for i in range(1, 21)]
    for slow in ({"d": 0.5}, {"d": 9.0}):
        late = [tree(2.0 * i, left, slow) for i in range(1, 21)]
        ranked = scores([*before, *late])
        assert max(ranked, key=ranked.__getitem__) == "b"
        assert min(ranked.values()) == ranked["c"] < ranked["b"]
    assert "b" not in scores([*before, *late], silence=False)


def test_less_traffic_for_all_is_no_silence() -> None:
    shape = {"f": {"a": {}, "b": {}}}
    before = [tree(-2.0 * i, shape, {}) for i in range(1, 21)]
    late = [tree(10.0 * i, shape, {"a": 9.0}) for i in range(1, 5)]
    assert scores([*before, *late]) == scores([*before, *late], silence=False)


def test_an_operation_or_pair_that_was_not_seen_before_is_no_error_and_not_abnormal() -> None:
    shape = {"f": {"a": {}}}
    late = [tree(10, shape, {"a": 9.0, "f": 9.0}), tree(20, {"f": {"new": {}}}, {"new": 99.0})]
    late.append(tree(30, shape, {}, operation="new"))
    assert scores([*history(shape), *late]) == pytest.approx({"a": 0.5, "f": 0})


def test_metrics_can_be_features_too() -> None:
    metrics = view_of({("a", "cpu"): [1, 2, 1, 2, 9, 9], ("f", "cpu"): [1, 2, 1, 2, 1, 2]}, normal_rows=4)
    roots = [call("f", t, 0.5, call("a", t, 0.5)) for t in np.arange(-4, 2) + 0.1]
    view = with_traces(metrics, roots)
    with pytest.raises(MethodError, match="no abnormal trace"):
        tracerca(view, RNG)
    ranked = dict(tracerca(view, RNG, features="spans+metrics").services)
    assert ranked == pytest.approx({"a": 2, "f": 2})


def test_closed_sets_score_like_all_sets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        members = np.unique(rng.random((rng.integers(1, 12), 6)) < 0.6, axis=0)
        kinds = len(members)
        traces = rng.integers(1, 9, kinds).astype(float)
        abnormal = np.minimum(rng.integers(0, 9, kinds), traces)
        abnormal[0] = max(abnormal[0], 1)
        called, calling = (rng.integers(0, 5, members.shape) * members.astype(float) for _ in range(2))
        observed = _TraceKinds(members, traces, abnormal, called, calling)
        found = _service_scores(observed, *_closed_sets(observed, 0.2, 1000), top_sets=1000)
        expected = np.full(6, np.nan)
        for subset in every_subset(6):
            through = members[:, subset].all(axis=1)
            if abnormal[through].sum() > 0.2 * abnormal.sum():
                both, passing = abnormal[through].sum(), traces[through].sum()
                index = both / (passing + abnormal.sum() - both)
                in_set = np.abs(called[through].sum(axis=0) - calling[through].sum(axis=0))
                for service in subset:
                    expected[service] = np.fmax(expected[service], index * in_set[service])
        np.testing.assert_allclose(found, expected)
        for few in (1, 3):
            pruned = _service_scores(observed, *_closed_sets(observed, 0.2, few), top_sets=few)
            np.testing.assert_allclose(pruned, _service_scores(observed, *_closed_sets(observed, 0.2, 1000), few))


def every_subset(items: int) -> Iterator[list[int]]:
    return map(list, chain.from_iterable(combinations(range(items), size) for size in range(1, items + 1)))


def test_only_the_top_sets_are_ranked() -> None:
    ranked = scores(many_sets_roots(), top_sets=1)
    assert set(ranked) == {"a", "b"}


def test_too_many_sets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SETS", 3)
    with pytest.raises(MethodError, match="more than 3 sets of services are suspicious"):
        scores(many_sets_roots())


def many_sets_roots() -> list[Call]:
    return [*history(*THROUGH_A), *(tree(10, shape, {"a": 5.0, "b": 5.0}) for shape in THROUGH_A)]


def test_without_normal_or_abnormal_traces_the_reason_is_given() -> None:
    shape = {"f": {"a": {}}}
    with pytest.raises(MethodError, match="no span before the inject time"):
        scores([tree(10, shape, {})])
    with pytest.raises(MethodError, match="no abnormal trace"):
        scores([*history(shape), tree(10, shape, {})])


def test_services_that_are_no_candidates_are_left_out() -> None:
    shape = {"f": {"a": {}}}
    view: CaseView = with_traces(no_metrics(), [*history(shape), tree(10, shape, {"a": 9.0})])
    assert set(dict(tracerca(replace(view, services=("a", "idle")), RNG).services)) == {"a"}
