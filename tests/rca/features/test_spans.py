from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.spans import link_traces, require_spans, self_time, span_table
from tasks.rca.method import MethodError
from tasks.rca.view import CaseView
from tests.rca.traces import call, no_metrics, with_traces


def own_times(view: CaseView) -> list[float]:
    return self_time(span_table(view), link_traces(view)).tolist()


def test_self_time_leaves_out_the_union_of_overlapping_children() -> None:
    """Two children run in parallel (0.1 to 0.5 and 0.3 to 0.7): 0.6 s, not 0.8 s."""
    root = call("a", 0, 1.0, call("b", 0.1, 0.4), call("c", 0.3, 0.4))
    assert own_times(with_traces(no_metrics(), [root])) == pytest.approx([0.4, 0.4, 0.4])


def test_self_time_counts_a_child_only_while_its_parent_runs() -> None:
    root = call("a", 1.0, 1.0, call("b", 0.5, 1.0), call("c", 1.8, 5.0), call("d", 1.2, 0.1))
    assert own_times(with_traces(no_metrics(), [root])) == pytest.approx([0.3, 1.0, 5.0, 0.1])


def test_self_time_of_many_traces_agrees_with_a_plain_count_of_milliseconds() -> None:
    rng = np.random.default_rng(0)
    roots, expected = [], []
    for i in range(50):
        length = int(rng.integers(1, 40))
        spans = [(int(rng.integers(-5, 40)), int(rng.integers(0, 20))) for _ in range(rng.integers(0, 5))]
        covered = np.zeros(200, dtype=bool)
        for begin, duration in spans:
            covered[100 + begin : 100 + begin + duration] = True
        expected.append(int((~covered[100 : 100 + length]).sum()) / 1000)
        children = [call("b", i + begin / 1000, duration / 1000) for begin, duration in spans]
        roots.append(call("a", i, length / 1000, *children))
    view = with_traces(no_metrics(), roots)
    view = replace(view, spans=view.spans.sample(frac=1, random_state=1))
    own = pd.Series(own_times(view), index=view.spans["trace_id"])[(view.spans["service"] == "a").to_numpy()]
    assert own[[f"trace-{i}" for i in range(50)]].tolist() == pytest.approx(expected)


def test_a_span_that_straddles_the_inject_time_is_not_normal() -> None:
    view = with_traces(no_metrics(), [call("a", -3, 1), call("a", -1, 2), call("a", -1, 1), call("a", 1, 1)])
    assert span_table(view).after.tolist() == [False, True, True, True]


def test_parents_are_found_within_their_trace_only() -> None:
    """Every trace uses the same span ids; a parent that was not recorded, or is the span itself, is none."""
    view = with_traces(no_metrics(), [call("a", i, 1, call("b", i, 0.5)) for i in range(3)])
    assert link_traces(view).parent.tolist() == [-1, 0, -1, 2, -1, 4]
    orphans = view.spans.assign(parent_span_id=[None, "gone", "1", "1", None, "1.0"])
    assert link_traces(replace(view, spans=orphans)).parent.tolist() == [-1, -1, -1, 2, -1, -1]


def test_errors_are_http_errors_and_an_unknown_status_is_none() -> None:
    roots = [call("a", i, 1, status=status) for i, status in enumerate([200, None, 404, 503, 0])]
    assert span_table(with_traces(no_metrics(), roots)).error.tolist() == [False, False, True, True, False]


def test_spans_without_a_duration_are_left_out() -> None:
    view = with_traces(no_metrics(), [call("a", 0, 1), call("b", 0, np.nan), call("c", 0, -1), call("d", 0, 2)])
    assert [service for service, _ in span_table(view).operations] == ["a", "d"]
    assert link_traces(view).count == 2


@pytest.mark.parametrize(("starts", "window"), [((1, 2), "before"), ((-9, -8), "after"), ((), "before")])
def test_a_window_without_spans_is_named(starts: tuple[float, ...], window: str) -> None:
    view = with_traces(no_metrics(), [call("a", start, 0.5) for start in starts])
    with pytest.raises(MethodError, match=f"no span {window} the inject time"):
        require_spans(span_table(view))


@pytest.mark.parametrize("dtype", ["object", "category"])
def test_a_span_without_operation_stays_with_its_service(dtype: str) -> None:
    view = with_traces(no_metrics(), [call("a", 0, 1.0), call("b", 0, 1.0), call("b", 0, 1.0)])
    operations = pd.Series(["x", None, "x"], dtype=dtype)
    table = span_table(replace(view, spans=view.spans.assign(operation=operations)))
    assert [table.operations[i][0] for i in table.operation] == ["a", "b", "b"]
    assert len(set(table.operation.tolist())) == len(set(table.operations)) == 3
