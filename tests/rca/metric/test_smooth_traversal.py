from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.smooth_traversal import smooth_traversal, step_scores
from tests.rca.call_views import call_view, reordered

RNG = np.random.default_rng(0)
NORMAL = [1.0, 2, 3, 4, 5]
"""Median 3; after it 9 scores ln 6, 5 scores ln 2, 2 scores ln 1.2, 3 scores 0."""


def test_known_answer() -> None:
    """front calls mid and side, mid calls leaf. The leaf starts it: mid and front are as surprising, not more so."""
    columns = {
        ("front", "x"): [*NORMAL, 9.0],
        ("mid", "x"): [*NORMAL, 9.0],
        ("leaf", "x"): [*NORMAL, 9.0],
        ("side", "x"): [*NORMAL, 5.0],
    }
    calls = [("front", "mid"), ("front", "side"), ("mid", "leaf")]
    view = call_view(columns, normal_rows=5, calls=calls)
    expected = {"front": 0, "mid": 0, "leaf": np.log(6), "side": np.log(2)}
    assert dict(smooth_traversal(view, RNG).services) == pytest.approx(expected)
    assert dict(smooth_traversal(reordered(view), RNG).services) == pytest.approx(expected)


def test_the_smallest_step_from_a_cause_counts() -> None:
    """The paper's score: min over the causes of S - S_cause, at least 0; a node without causes keeps S."""
    surprise = np.array([5.0, 3.0, 1.0, 4.0])
    calls = np.zeros((4, 4), dtype=bool)
    calls[0, [1, 2]] = calls[1, 3] = True
    assert step_scores(surprise, calls).tolist() == [2.0, 0.0, 1.0, 4.0]


def test_a_caller_more_surprising_than_all_that_it_calls_is_blamed() -> None:
    columns = {("front", "x"): [*NORMAL, 3.0], ("mid", "x"): [*NORMAL, 9.0], ("leaf", "x"): [*NORMAL, 2.0]}
    view = call_view(columns, normal_rows=5, calls=[("front", "mid"), ("mid", "leaf")])
    scores = dict(smooth_traversal(view, RNG).services)
    assert scores == pytest.approx({"front": 0, "mid": np.log(6) - np.log(1.2), "leaf": np.log(1.2)})


def test_who_the_front_end_does_not_depend_on_is_left_out_and_circles_are_harmless() -> None:
    columns = {(name, "x"): [*NORMAL, 9.0] for name in ("front", "a", "b", "stranger")}
    calls = [("front", "a"), ("a", "b"), ("b", "a"), ("stranger", "a")]
    view = call_view(columns, normal_rows=5, calls=calls)
    assert dict(smooth_traversal(view, RNG).services) == pytest.approx({"front": 0, "a": 0, "b": 0})


def test_a_service_without_metrics_is_no_node() -> None:
    columns = {("front", "x"): [*NORMAL, 9.0], ("mid", "x"): [*NORMAL, 5.0]}
    view = call_view(columns, normal_rows=5, calls=[("front", "mid"), ("mid", "dark")])
    view = replace(view, services=(*view.services, "dark"), roles={**view.roles, "dark": "replica"})
    assert dict(smooth_traversal(view, RNG).services) == pytest.approx(
        {"front": np.log(6) - np.log(2), "mid": np.log(2)}
    )


def test_without_calls_there_is_no_graph() -> None:
    with pytest.raises(MethodError, match="no call between two services"):
        smooth_traversal(call_view({("a", "x"): [*NORMAL, 9.0]}, normal_rows=5, calls=[]), RNG)
