from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.microscope import microscope
from tasks.rca.view import CaseView
from tests.rca.call_views import call_view, reordered, stepped

ROWS, NORMAL = 60, 40
CALLS = [("front", "a"), ("a", "b"), ("front", "c"), ("c", "d")]


def view_with(slow: dict[str, float], calls: list[tuple[str, str]] = CALLS) -> CaseView:
    """Services of the calls; each of ``slow`` takes that many times as long after the inject time."""
    services = dict.fromkeys(service for call in calls for service in call)
    latency = {
        (service, "latency_p90"): stepped(ROWS, NORMAL, slow.get(service, 1.0), seed=i)
        for i, service in enumerate(services)
    }
    return call_view(latency, normal_rows=NORMAL, calls=calls)


def scores(view: CaseView, **parameters: float) -> dict[str, float]:
    return dict(microscope(view, np.random.default_rng(0), **parameters).services)


def test_known_answer() -> None:
    """front and a are explained by a and b; d is slow, but c between it and the front end is not."""
    found = scores(view_with({"front": 2, "a": 2, "b": 2, "d": 2}))
    assert found.keys() == {"b"}
    assert found["b"] > 0.95


def test_candidates_are_ordered_by_likeness_to_the_front_end() -> None:
    view = view_with({"front": 2, "a": 2, "b": 2, "c": 2, "d": 2})
    metrics = view.metrics.copy()
    metrics.iloc[NORMAL + 10 :, metrics.columns.get_loc(("d", "latency_p90"))] = 1.0  # slow for half as long
    found = scores(replace(view, metrics=metrics))
    assert found.keys() == {"b", "d"}
    assert 1 > found["b"] > found["d"] + 0.1  # with the last one visited as the yardstick one of them would have 1


def test_the_front_end_alone() -> None:
    assert scores(view_with({"front": 2})).keys() == {"front"}


def test_a_front_end_that_is_not_slow_does_not_hide_its_callees() -> None:
    assert scores(view_with({"a": 2, "c": 2})).keys() == {"a", "c"}


def test_what_users_saw_tells_whether_the_front_end_is_slow() -> None:
    view = view_with({})
    sli = view.sli.fillna(0.0) + np.array(stepped(ROWS, NORMAL, 3.0, seed=9))
    assert scores(replace(view, sli=sli)).keys() == {"front"}


def test_services_that_call_in_a_circle_stand_together() -> None:
    circle = [("front", "a"), ("a", "b"), ("b", "a"), ("b", "front")]
    assert scores(view_with({"a": 2, "b": 2}, circle)).keys() == {"a", "b"}
    out_of_it = [("front", "a"), ("a", "b"), ("b", "a"), ("a", "c")]
    assert scores(view_with({"a": 2, "b": 2, "c": 2}, out_of_it)).keys() == {"c"}


def test_nothing_slow_is_an_error() -> None:
    with pytest.raises(MethodError, match="no slow service"):
        scores(view_with({}))
    with pytest.raises(MethodError, match="no slow service"):
        scores(view_with({"b": 2, "d": 2}))


def test_a_service_that_became_faster_is_not_slow() -> None:
    assert scores(view_with({"front": 2, "a": 0.3})).keys() == {"front"}


def test_one_slow_step_is_enough_only_if_asked_for() -> None:
    view = view_with({"front": 2})
    metrics = view.metrics.copy()
    metrics.iloc[-1, metrics.columns.get_loc(("a", "latency_p90"))] = 9.0
    view = replace(view, metrics=metrics)
    assert scores(view, share=0.1).keys() == {"front"}
    assert scores(view, share=0.0).keys() == {"a"}


def test_latency_that_was_constant_before() -> None:
    view = view_with({"front": 2})
    metrics = view.metrics.copy()
    metrics[("a", "latency_p90")] = np.where(np.arange(ROWS) < NORMAL, 1.0, 1.5)
    metrics[("c", "latency_p90")] = 1.0
    assert scores(replace(view, metrics=metrics)).keys() == {"a"}


def test_order_says_nothing() -> None:
    view = view_with({"front": 2, "a": 2, "b": 2, "c": 2, "d": 3})
    for seed in range(3):
        assert scores(reordered(view, seed)) == pytest.approx(scores(view))
