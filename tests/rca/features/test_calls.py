from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.calls import CallGraph, build_call_graph
from tasks.rca.method import MethodError
from tests.rca.call_views import Span, call_view, reordered, span_table
from tests.rca.views import T0

FLAT = [1.0] * 6


def edges(graph: CallGraph) -> set[tuple[str, str]]:
    return {
        (graph.services[a], graph.services[b])
        for a, b in zip(graph.callers.tolist(), graph.callees.tolist(), strict=True)
    }


def latency_of(graph: CallGraph, caller: str, callee: str) -> list[float]:
    found = (graph.callers == graph.services.index(caller)) & (graph.callees == graph.services.index(callee))
    return graph.edge_latency[:, found][:, 0].tolist()


def service_latency(graph: CallGraph, service: str) -> list[float]:
    return graph.service_latency[:, graph.services.index(service)].tolist()


def trace(name: str, at: float, head: float, replica: float) -> list[Span]:
    """front calls head, head calls replica; durations in seconds. The front's span lasts as long as head's."""
    return [
        (name, "1", None, "front", at, head),
        (name, "2", "1", "head", at, head),
        (name, "3", "2", "replica", at, replica),
    ]


COLUMNS = {("front", "cpu"): FLAT, ("head", "cpu"): FLAT, ("replica", "cpu"): FLAT, ("other", "cpu"): FLAT}
CALLS = [("front", "head"), ("head", "replica")]


def test_edges_are_those_of_topology_and_spans_once_each() -> None:
    view = call_view(
        COLUMNS,
        normal_rows=3,
        calls=[*CALLS, ("front", "head"), ("head", "head"), ("head", "database"), ("mesh", "front")],
        spans=[
            ("t", "1", None, "head", 0.5, 0.2),
            ("t", "2", "1", "other", 0.5, 0.1),
            ("t", "3", "2", "cache", 0.5, 0.1),
        ],
    )
    graph = build_call_graph(view)
    assert edges(graph) == {*CALLS, ("head", "other")}
    assert graph.calls().sum() == 3


def test_a_call_counts_in_the_step_in_which_it_ended_wherever_the_rows_are() -> None:
    spans = trace("a", 0.2, 0.5, 0.4) + trace("b", 3.5, 1.0, 1.0) + trace("c", 4.6, 0.2, 0.1) + trace("d", 9, 1, 1)
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans)
    view = replace(
        view, metrics=view.metrics.drop(index=view.metrics.index[2]), sli=view.sli.drop(index=view.sli.index[2])
    )
    graph = build_call_graph(view)
    # rows are 0, 1, 3, 4 and 5 s; a ends at 0.7, b at 4.5, c at 4.8 s
    expected = [np.nan, 0.4, np.nan, np.nan, 0.1 + 0.9 * 0.9]
    np.testing.assert_allclose(latency_of(graph, "head", "replica"), expected)
    assert graph.abnormal.tolist() == [False, False, True, True, True]


def test_a_call_that_ends_in_a_hole_between_rows_counts_nowhere() -> None:
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=trace("a", 1.1, 0.5, 0.5))
    kept = view.metrics.index[[0, 1, 4, 5]]
    graph = build_call_graph(replace(view, metrics=view.metrics.loc[kept], sli=view.sli.loc[kept]))
    assert np.isnan(graph.edge_latency).all()


def test_a_call_lasts_as_long_as_its_caller_waits() -> None:
    spans = [
        ("t", "1", None, "head", 0.0, 1.0),  # the proxy
        ("t", "2", "1", "head", 0.0, 0.1),  # ends when the replica accepts
        ("t", "3", "2", "replica", 0.2, 0.3),  # 0.7 s on the way
    ]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    assert latency_of(graph, "head", "replica")[1] == pytest.approx(1.0)
    assert service_latency(graph, "replica")[1] == pytest.approx(1.0)


def test_a_callers_own_work_is_not_its_calls() -> None:
    spans = [("t", "1", None, "head", 0.0, 1.0), ("t", "2", "1", "replica", 0.2, 0.3)]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    assert latency_of(graph, "head", "replica")[1] == pytest.approx(0.3)


def test_a_caller_that_waits_for_several_calls_does_not_tell_how_long_each_took() -> None:
    spans = [
        ("t", "1", None, "head", 0.0, 0.9),
        ("t", "2", "1", "replica", 0.1, 0.2),
        ("t", "3", "1", "other", 0.3, 0.5),
    ]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    assert latency_of(graph, "head", "replica")[1] == pytest.approx(0.2)
    assert latency_of(graph, "head", "other")[1] == pytest.approx(0.5)


def test_a_caller_that_does_not_wait_has_the_callees_own_time() -> None:
    spans = [("t", "1", None, "head", 0.0, 0.1), ("t", "2", "1", "replica", 0.1, 0.8)]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    assert latency_of(graph, "head", "replica")[1] == pytest.approx(0.8)


def test_a_services_latency_is_that_of_the_calls_into_it_not_the_sum_of_its_edges() -> None:
    spans = [
        ("t", "1", None, "front", 0.0, 0.6),
        ("t", "2", "1", "head", 0.0, 0.2),
        ("t", "3", "1", "other", 0.0, 0.3),
        ("t", "4", "2", "replica", 0.0, 0.1),
        ("t", "5", "2", "replica", 0.0, 0.1),
    ]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    values = {service: service_latency(graph, service)[1] for service in graph.services}
    assert values == pytest.approx({"front": 0.6, "head": 0.2, "other": 0.3, "replica": 0.1})


def test_one_step_of_an_edge_is_the_ninetieth_percentile() -> None:
    rng = np.random.default_rng(0)
    spans = [s for i, d in enumerate(rng.gamma(2, 0.1, 300)) for s in trace(str(i), rng.uniform(0, 5), d, d)]
    graph = build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans))
    ends = pd.DataFrame([(start + took, took) for _, _, _, service, start, took in spans if service == "replica"])
    expected = ends.groupby(np.ceil(ends[0]))[1].quantile(0.9).reindex(range(6)).to_numpy()
    np.testing.assert_allclose(latency_of(graph, "head", "replica"), expected)


def test_spans_that_do_not_reach_into_both_windows_give_way_to_the_callees_latency_metric() -> None:
    """Nezha recorded spans only around the faults: next to nothing to compare them with."""
    metric = [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9]
    columns = {**{column: [1.0] * 7 for column in COLUMNS}, ("replica", "latency_p90"): metric}

    def graph_with(*starts: float) -> CallGraph:
        spans = [span for start in starts for span in trace(str(start), start, 0.5, 0.4)]
        return build_call_graph(call_view(columns, normal_rows=4, calls=CALLS, spans=spans))

    for starts in ([4.2], [0.2, 1.2, 4.2], [0.2, 1.2, 2.2]):
        graph = graph_with(*starts)
        assert latency_of(graph, "head", "replica") == metric
        assert service_latency(graph, "replica") == metric
        row = int(np.ceil(starts[-1] + 0.5))
        assert latency_of(graph, "front", "head")[row] == pytest.approx(0.5)  # has no metric: what the spans have
    assert latency_of(graph_with(0.2, 1.2, 2.2, 4.2), "head", "replica")[1] == pytest.approx(0.4)


def test_which_latency_metric() -> None:
    columns = {
        ("front", "latency_p50"): [2.0] * 6,
        ("front", "a_latency"): [1.0] * 6,
        ("front", "latency_p90"): [3.0] * 6,
        ("head", "ttft_mean"): [5.0] * 6,
        ("head", "duration"): [4.0] * 6,
        ("head", "latency_errors"): [6.0] * 6,
        ("replica", "cpu"): FLAT,
    }
    graph = build_call_graph(call_view(columns, normal_rows=3, calls=CALLS))
    assert service_latency(graph, "front") == [3.0] * 6
    assert service_latency(graph, "head") == [4.0] * 6
    assert np.isnan(service_latency(graph, "replica")).all()


def test_names_that_contain_each_other_are_not_mixed_up() -> None:
    columns = {
        ("cart", "latency_p90"): [1.0] * 6,
        ("cart-db", "latency_p90"): [2.0] * 6,
        ("c.rt", "latency_p90"): [3.0] * 6,
    }
    graph = build_call_graph(call_view(columns, normal_rows=3, calls=[("cart", "cart-db"), ("cart", "c.rt")]))
    assert latency_of(graph, "cart", "cart-db") == [2.0] * 6
    assert latency_of(graph, "cart", "c.rt") == [3.0] * 6
    assert service_latency(graph, "cart") == [1.0] * 6


def test_what_users_saw_is_matched_by_time() -> None:
    view = call_view(
        {("front", "latency_p90"): [9.0] * 6, ("head", "cpu"): FLAT}, normal_rows=3, calls=[("front", "head")]
    )
    assert build_call_graph(view).front_end_latency.tolist() == [9.0] * 6
    late = pd.Series([0.4, 0.5, 0.6], index=T0 + pd.to_timedelta([2, 4, 9], unit="s"), name="sli")
    graph = build_call_graph(replace(view, sli=late))
    np.testing.assert_array_equal(graph.front_end_latency, [np.nan, np.nan, 0.4, np.nan, 0.5, np.nan])


def test_one_id_for_two_spans_and_spans_without_parents() -> None:
    spans = [
        ("t", "1", None, "front", 0.0, 0.5),
        ("t", "2", "1", "front", 0.0, 0.4),  # client and server share the id 2
        ("t", "2", "1", "head", 0.0, 0.3),
        ("t", "3", "2", "replica", 0.0, 0.1),
        ("t", "4", "gone", "other", 0.0, 0.2),
        ("u", "5", "1", "other", 0.0, 0.2),  # the 1 of another trace
        ("u", "6", "6", "other", 0.0, 0.2),
    ]
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS[:1], spans=spans)
    graph = build_call_graph(view)
    assert edges(graph) == {("front", "head"), ("head", "replica")}
    assert service_latency(graph, "other")[1] == pytest.approx(0.2)


def test_hosts_are_numbered_by_what_they_hold() -> None:
    hosts = {"front": "z", "head": "a", "replica": "z", "stranger": "b"}
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS, hosts=hosts)
    graph = build_call_graph(view)
    assert graph.hosts.tolist() == [[0, 0], [1, 1], [2, 0]]
    assert graph.host_count == 2
    assert build_call_graph(call_view(COLUMNS, normal_rows=3, calls=CALLS)).host_count == 0


def test_order_says_nothing() -> None:
    spans = trace("a", 0.2, 0.5, 0.4) + trace("b", 3.5, 1.0, 1.0) + trace("c", 4.6, 0.2, 0.1)
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=spans)
    graph, other = build_call_graph(view), build_call_graph(reordered(view))
    for call in CALLS:
        np.testing.assert_array_equal(latency_of(graph, *call), latency_of(other, *call))


def test_no_call_is_an_error() -> None:
    with pytest.raises(MethodError, match="no call between two services"):
        build_call_graph(call_view(COLUMNS, normal_rows=3, calls=[("front", "front")], hosts={"front": "h"}))


def test_the_spans_are_left_as_they_were() -> None:
    view = call_view(COLUMNS, normal_rows=3, calls=CALLS, spans=trace("a", 0.2, 0.5, 0.4))
    before = view.spans.copy(deep=True)
    build_call_graph(view)
    pd.testing.assert_frame_equal(view.spans, before)
    assert span_table(()).empty
