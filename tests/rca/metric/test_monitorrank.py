from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.monitorrank import monitorrank
from tasks.rca.view import CaseView
from tests.rca.call_views import call_view, reordered

USERS = np.array([1.0, 1.0, -1.0, -1.0] * 3)
ELSE = np.array([1.0, -1.0, 1.0, -1.0] * 3)
CALLS = [("front", "a"), ("front", "b"), ("b", "c")]
SIMILARITY = {"a": 0.2, "b": 0.6, "c": 0.9}


def view_with(similarity: Mapping[str, float], calls: list[tuple[str, str]] = CALLS) -> CaseView:
    """Latency of each service correlates with what users saw exactly as given."""
    latency = {("front", "latency_p90"): (5 + USERS).tolist()}
    for service, r in similarity.items():
        latency[(service, "latency_p90")] = (5 + r * USERS + np.sqrt(1 - r * r) * ELSE).tolist()
    return call_view(latency, normal_rows=6, calls=calls)


def scores(view: CaseView, **parameters: float) -> dict[str, float]:
    return dict(monitorrank(view, np.random.default_rng(0), **parameters).services)


def test_known_answer() -> None:
    """Steps of front, a, b, c. a stays .2 or goes back .5 * 1; b goes to c .9 or back .5 * 1 and does not stay, as c is
    more similar; c stays .9 or goes back .5 * .6. The front end goes to a .2 or b .6 and never stays."""
    steps = np.array(
        [
            [0, 0.2 / 0.8, 0.6 / 0.8, 0],
            [0.5 / 0.7, 0.2 / 0.7, 0, 0],
            [0.5 / 1.4, 0, 0, 0.9 / 1.4],
            [0, 0, 0.3 / 1.2, 0.9 / 1.2],
        ]
    )
    restart = np.array([0, 0.2, 0.6, 0.9]) / 1.7
    found = scores(view_with(SIMILARITY))
    shares = np.array([found[service] for service in ("front", "a", "b", "c")])
    np.testing.assert_allclose(shares, 0.85 * steps.T @ shares + 0.15 * restart, atol=1e-12)
    assert shares.sum() == pytest.approx(1)
    assert max(found, key=found.__getitem__) == "c"


def test_parameters() -> None:
    never_walks = scores(view_with(SIMILARITY), restart_probability=1.0)
    assert never_walks == pytest.approx({"front": 0, "a": 0.2 / 1.7, "b": 0.6 / 1.7, "c": 0.9 / 1.7})
    assert scores(view_with(SIMILARITY), backward=0.0)["front"] == 0


def test_latency_that_moves_against_the_front_end_counts_as_much() -> None:
    against = scores(view_with({"a": 0.2, "b": 0.6, "c": -0.9}))
    assert against == pytest.approx(scores(view_with(SIMILARITY)))
    assert min(against.values()) >= 0


def test_a_latency_that_never_moves_has_no_similarity() -> None:
    view = view_with(SIMILARITY)
    metrics = view.metrics.copy()
    metrics[("a", "latency_p90")] = 3.0
    metrics[("b", "latency_p90")] = np.nan
    found = scores(replace(view, metrics=metrics))
    assert max(found, key=found.__getitem__) == "c"
    assert np.isfinite(list(found.values())).all()


def test_every_service_of_the_call_graph_takes_part_and_no_other() -> None:
    view = view_with({**SIMILARITY, "d": 0.1, "alone": 0.99}, [*CALLS, ("a", "d")])
    assert scores(view).keys() == {"front", "a", "b", "c", "d"}


def test_it_walks_with_the_calls() -> None:
    """Of two alike the callee, which may be the cause, comes before the caller."""
    found = scores(view_with({"a": 0.0, "b": 0.8, "c": 0.8}))
    assert found["c"] > found["b"] > found["front"]


def test_circles_and_order() -> None:
    view = view_with(SIMILARITY, [*CALLS, ("c", "b"), ("c", "front")])
    assert scores(view) == pytest.approx(scores(reordered(view)))


def test_nothing_that_moves_with_the_front_end_is_an_error() -> None:
    with pytest.raises(MethodError, match="moves with the front end"):
        scores(view_with({"a": 0.0, "b": 0.0, "c": 0.0}))
