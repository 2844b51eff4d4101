from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.spans import link_spans, service_calls, span_ends


def spans(*rows: tuple[str, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["trace_id", "span_id", "parent_span_id"])


def test_a_parent_is_looked_for_in_its_own_trace() -> None:
    linked = link_spans(spans(("t", "1", None), ("u", "2", "1"), ("t", "3", "1"), ("u", "1", "gone")))
    assert linked.parent.tolist() == [-1, 3, 0, -1]
    assert linked.trace.tolist() == [0, 1, 0, 1]
    assert linked.count == 2


def test_a_span_is_not_its_own_parent_and_no_id_is_not_an_id() -> None:
    assert link_spans(spans(("t", "1", "1"), ("t", "2", None), ("t", None, "2"))).parent.tolist() == [-1, -1, 1]


def test_of_spans_with_one_id_the_preferred_is_the_parent_and_else_the_first() -> None:
    table = spans(("t", "1", None), ("t", "1", None), ("t", "2", "1"))
    assert link_spans(table).parent.tolist() == [-1, -1, 0]
    assert link_spans(table, np.array([0.5, 0.1, 0.0])).parent.tolist() == [-1, -1, 1]
    assert link_spans(table, np.array([0.5, 0.5, 0.0])).parent.tolist() == [-1, -1, 0]


def test_no_spans_have_no_links() -> None:
    linked = link_spans(spans())
    assert (linked.trace.tolist(), linked.parent.tolist(), linked.count) == ([], [], 0)


def test_calls_are_told_from_spans_of_one_service() -> None:
    # a calls b, b calls c; the parent of the last span was not recorded
    table = spans(("t", "1", None), ("t", "2", "1"), ("t", "3", "2"), ("t", "4", "3"), ("t", "5", "gone"))
    service = np.array([0, 1, 1, 2, 1])
    traces = link_spans(table)
    assert traces.callers(service).tolist() == [-1, 0, 1, 1, -1]
    assert traces.calls(service).tolist() == [0, 1, 3, 4]
    assert service_calls(table.assign(service=list("abbcb"))) == [("a", "b"), ("b", "c")]


def test_a_call_is_seen_by_the_innermost_span_of_the_caller_that_is_long_enough() -> None:
    table = spans(("t", "1", None), ("t", "2", "1"), ("t", "3", "2"), ("t", "4", "3"))
    service, call = np.array([0, 0, 0, 1]), np.array([3])
    traces = link_spans(table)
    for lengths, expected in (([9, 5, 4, 4], 2), ([9, 5, 1, 4], 1), ([9, 2, 1, 4], 0), ([3, 2, 1, 4], 0)):
        assert traces.caller_span(call, service, np.array(lengths)).tolist() == [expected]
    only_next = np.array([False, True, True, True])
    assert traces.caller_span(call, service, np.array([9, 2, 1, 4]), only_next).tolist() == [1]
    assert traces.caller_span(np.array([0]), service, np.array([9, 2, 1, 4])).tolist() == [-1]


def test_the_end_of_a_span_is_rounded_to_the_nanosecond() -> None:
    start = pd.Timestamp("2026-11-29T00:00:00Z")
    table = pd.DataFrame({"start": [start, start], "duration": [0.0, 1.0000000006]})
    assert (span_ends(table) - start.value).tolist() == [0, 1_000_000_001]
