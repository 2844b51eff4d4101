from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import Birch

from tasks.rca.method import MethodError
from tasks.rca.metric.microrca import birch_clusters, has_risen, microrca, relative_to_normal
from tasks.rca.view import CaseView
from tests.rca.call_views import call_view, reordered, stepped

ROWS, NORMAL = 60, 40
CALLS = [("front", "a"), ("a", "b"), ("front", "c")]
HOSTS = {"front": "h0", "a": "h1", "b": "h2", "c": "h1"}


def view_with(
    slow: dict[str, float],
    cpu: dict[str, list[float]] | None = None,
    *,
    calls: list[tuple[str, str]] = CALLS,
    hosts: dict[str, str] | None = HOSTS,
) -> CaseView:
    """Services of the calls; each of ``slow`` takes that many times as long after the inject time. A service of ``cpu``
    has that CPU use."""
    services = dict.fromkeys(service for call in calls for service in call)
    columns = {}
    for i, service in enumerate(services):
        columns[(service, "latency_p90")] = stepped(ROWS, NORMAL, slow.get(service, 1.0), seed=i)
        columns[(service, "cpu_usage")] = (cpu or {}).get(service, [0.5] * ROWS)
    return call_view(columns, normal_rows=NORMAL, calls=calls, hosts=hosts)


def scores(view: CaseView, **parameters: Any) -> dict[str, float]:
    return dict(microrca(view, np.random.default_rng(0), **parameters).services)


LATENCY_OF_B = stepped(ROWS, NORMAL, 3.0, seed=2)


def test_known_answer() -> None:
    """Only a -> b is anomalous: weight .55. b's CPU follows exactly: its host gets .55 * 1. The walk starts in b, goes
    to a or the host, half each, and starts afresh from either: 1, .85 / 2 and .85 / 2 visits."""
    view = view_with({"b": 3}, {"b": [7 * x + 2 for x in LATENCY_OF_B]})
    assert scores(view) == pytest.approx({"b": 1 / 1.85, "a": 0.425 / 1.85})


def test_known_answer_without_hosts_and_along_the_calls() -> None:
    view = view_with({"b": 3}, hosts=None)
    assert scores(view) == pytest.approx({"b": 1 / 1.85, "a": 0.85 / 1.85})
    assert scores(view, walk="to_callees") == pytest.approx({"b": 1, "a": 0})


def test_the_walk_starts_where_resources_follow_latency() -> None:
    """b and c are equally slow; only the CPU of one follows, up or down."""
    slow = {"b": 3.0, "c": 3.0}
    for service, other in (("b", "c"), ("c", "b")):
        series = stepped(ROWS, NORMAL, 3.0, seed=2 if service == "b" else 3)
        for sign in (1, -1):
            found = scores(view_with(slow, {service: [9 + sign * x for x in series]}, hosts=None))
            assert found[service] > 5 * found[other]


def test_resources_of_a_service_whose_name_contains_anothers_are_not_taken_for_its_own() -> None:
    calls = [("front", "cart"), ("front", "cart-db"), ("front", "other")]
    slow = {"cart": 3.0, "other": 3.0}
    somewhat = (np.array(stepped(ROWS, NORMAL, 3.0, seed=3)) + np.random.default_rng(0).normal(0, 2, ROWS)).tolist()
    view = view_with(slow, {"cart-db": stepped(ROWS, NORMAL, 3.0, seed=1), "other": somewhat}, calls=calls, hosts=None)
    found = scores(view)
    assert found["other"] > 5 * found["cart"]


def test_correlations_never_make_a_weight_negative() -> None:
    """c -> b is not anomalous and moves against it."""
    view = view_with({"b": 3}, calls=[("front", "a"), ("a", "b"), ("b", "c")], hosts=None)
    metrics = view.metrics.copy()
    metrics[("c", "latency_p90")] = 9.0 - metrics[("b", "latency_p90")]
    found = scores(replace(view, metrics=metrics), walk="to_callees")
    assert found["c"] > 0
    assert min(found.values()) >= 0
    assert sum(found.values()) == pytest.approx(1)


def test_rows_are_matched_by_time() -> None:
    """The CPU is that of the same moments, even if rows are missing somewhere."""
    view = view_with({"b": 3}, {"b": LATENCY_OF_B})
    holes = view.metrics.index.delete([3, 17, 41])
    assert scores(replace(view, metrics=view.metrics.loc[holes], sli=view.sli[holes])) == pytest.approx(scores(view))


def test_the_front_end_can_be_named() -> None:
    """Users' calls into it are an edge; what it calls is fast."""
    found = scores(view_with({"front": 3}))
    assert max(found, key=found.__getitem__) == "front"
    assert found.keys() == {"front", "a", "c"}
    sli = pd.Series(stepped(ROWS, NORMAL, 3.0, seed=8), index=view_with({}).metrics.index, name="sli")
    assert scores(replace(view_with({}), sli=sli))["front"] > 0.5


def test_no_anomalous_call_is_an_error_not_a_guess() -> None:
    with pytest.raises(MethodError, match="no anomalous call"):
        scores(view_with({}))
    with pytest.raises(MethodError, match="no anomalous call"):
        scores(view_with({"b": 0.2}))


def test_order_says_nothing() -> None:
    """b has two anomalous callers: neither may overwrite the other."""
    view = view_with({"a": 3, "b": 3}, {"b": LATENCY_OF_B}, calls=[*CALLS, ("c", "b"), ("b", "c")])
    for seed in range(4):
        assert scores(reordered(view, seed)) == pytest.approx(scores(view))


def test_a_host_shared_by_several_services() -> None:
    """The busy neighbour counts for the host, by its share of the services on it."""
    b_alone = scores(view_with({"b": 3}, {"b": LATENCY_OF_B}, hosts={"b": "h"}))
    with_neighbour = scores(
        view_with({"b": 3}, {"b": LATENCY_OF_B, "c": stepped(ROWS, NORMAL, 1.0, seed=5)}, hosts={"b": "h", "c": "h"})
    )
    assert with_neighbour["a"] > b_alone["a"]  # less goes to the host


def test_metrics_of_the_host_count_for_the_host_and_not_for_the_service() -> None:
    plain = view_with({"b": 3}, hosts={"b": "h"})
    metrics = plain.metrics.copy()
    metrics[("b", "node_cpu")] = LATENCY_OF_B
    found = scores(replace(plain, metrics=metrics))
    assert found == pytest.approx({"b": 1 / 1.85, "a": 0.425 / 1.85})  # as if the service's own CPU followed
    assert scores(plain)["a"] > 0.8 / 1.85  # next to nothing goes to a host at rest


def risen(series: np.ndarray, normal: int, threshold: float = 0.5, smoothing: int = 1) -> bool:
    abnormal = np.arange(len(series)) >= normal
    relative = relative_to_normal(series[:, None], abnormal)
    return bool(has_risen(relative, abnormal, threshold, smoothing)[0])


@pytest.mark.parametrize(("height", "expected"), [(1.2, False), (1.9, False), (2.2, True), (0.1, False), (9.0, True)])
@pytest.mark.parametrize(("normal", "after"), [(50, 15), (500, 15), (20, 400), (600, 5)])
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e300])
def test_neither_unit_nor_number_of_rows_decides(
    height: float, expected: bool, normal: int, after: int, unit: float
) -> None:
    series = unit * np.repeat([1.0, height], [normal, after])
    assert risen(series, normal) is expected


def test_what_was_seen_before_the_fault_is_not_anomalous_after_it() -> None:
    busy = np.array([1.0, 1.0, 1.0, 5.0] * 10)
    assert not risen(np.concatenate([busy, busy]), 40)
    assert risen(np.concatenate([busy, 4 * busy]), 40)


def test_a_lone_outlier_is_smoothed_away() -> None:
    series = np.ones(60)
    series[50] = 5.0
    assert risen(series, 40, smoothing=1)
    assert not risen(series, 40, smoothing=10)


def test_edges_without_samples_in_a_window_are_not_anomalous() -> None:
    assert not risen(np.repeat([np.nan, 5.0], 20), 20)
    assert not risen(np.repeat([5.0, np.nan], 20), 20)
    assert risen(np.where(np.arange(60) % 3 == 0, np.repeat([1.0, 5.0], 30), np.nan), 30)
    assert risen(np.repeat([0.0, 5.0], 20), 20)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_clusters_are_those_of_birch(threshold: float) -> None:
    """With equal weights, as long as its tree is one node deep."""
    points = np.random.default_rng(0).gamma(2, 0.8, (50, 6))
    centres, _ = birch_clusters(points, np.ones_like(points), threshold, 25)
    for column in range(points.shape[1]):
        birch = Birch(threshold=threshold, n_clusters=None, branching_factor=50).fit(points[:, [column]])
        found = centres[:, column][np.isfinite(centres[:, column])]
        np.testing.assert_allclose(np.sort(found), np.sort(birch.subcluster_centers_[:, 0]))
