from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.baro import baro
from tasks.rca.multi_source.mmbaro import mmbaro
from tasks.rca.view import CaseView
from tests.rca.traces import Call, call, no_metrics, with_logs, with_traces
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def quiet(rows: int = 6, normal_rows: int = 5) -> CaseView:
    """One metric that never moves, one row per second."""
    return view_of({("a", "cpu"): [1.0] * rows}, normal_rows=normal_rows)


def columns(view: CaseView, **parameters: Any) -> dict[tuple[str, str], float]:
    ranking = mmbaro(view, RNG, **parameters)
    return {(service, metric): score for service, metric, score in ranking.metrics}


def logged(counts: list[int], *, first: int = -5, service: str = "a") -> list[tuple[float, str, str, str]]:
    """That many lines in each second from ``first`` on."""
    return [(first + i + 0.5, service, "info", "line") for i, count in enumerate(counts) for _ in range(count)]


def test_without_logs_and_spans_it_is_baro() -> None:
    view = view_of({("a", "cpu"): [1, 2, 3, 4, 5, 9], ("b", "cpu"): [10, 20, 30, 40, 50, -70]}, normal_rows=5)
    assert mmbaro(view, RNG) == baro(view, RNG)
    assert dict(mmbaro(view, RNG, direction="up").services) == dict(baro(view, RNG, direction="up").services)


def test_known_answer() -> None:
    """Each source has 1 to 5 before the fault: median 3, interquartile range 2.

    Then 9 log lines (3 ranges above), 5 errors (1 above), and a mean duration of 10 s (3.5 above).
    """
    durations = {-5: [1.0], -4: [1.0, 3.0], -3: [3.0], -2: [3.0, 4.0, 5.0], -1: [5.0], 0: [10.0]}
    slow = [call("b", at + 0.9 - d, d, status=None) for at, ds in durations.items() for d in ds]
    errors = [call("c", at + 0.1, 0.5, status=503) for at, n in zip(range(-5, 1), [1, 2, 3, 4, 5, 5], strict=True)
              for _ in range(n)]  # fmt: skip
    view = with_logs(with_traces(quiet(), [*slow, *errors]), logged([1, 2, 3, 4, 5, 9]))
    found = columns(view)
    assert found[("a", "log_lines")] == pytest.approx(3)
    assert found[("b", "span_latency op")] == pytest.approx(3.5)
    assert found[("c", "span_errors op")] == pytest.approx(1)
    assert found[("a", "cpu")] == found[("c", "span_latency op")] == found[("b", "span_errors op")] == 0
    assert dict(mmbaro(view, RNG).services) == pytest.approx({"a": 3, "b": 3.5, "c": 1})


def test_latency_is_latency_not_the_number_of_requests() -> None:
    def rate(counts: list[int]) -> list[Call]:
        return [call("b", at + 0.1, 0.5) for at, count in zip(range(-5, 1), counts, strict=True) for _ in range(count)]

    found = columns(with_traces(quiet(), rate([1, 2, 3, 4, 5, 9])))
    assert found[("b", "span_latency op")] == 0
    assert ("b", "spans op") not in found
    assert columns(with_traces(quiet(), rate([1, 2, 3, 4, 5, 9])), traffic=True)[("b", "spans op")] == pytest.approx(3)


def test_a_step_without_lines_counts_as_zero() -> None:
    """3 lines, then silence: 1.5 ranges below. Were the silent step lost, the score would be 0."""
    view = with_logs(quiet(rows=7), logged([1, 2, 3, 4, 5, 3]))
    assert columns(view)[("a", "log_lines")] == pytest.approx(1.5)


def test_a_step_without_spans_has_no_latency() -> None:
    roots = [call("b", at + 0.1, 0.5) for at in (-5, -4, -2, -1, 1)]
    assert columns(with_traces(quiet(rows=7), roots))[("b", "span_latency op")] == 0


def test_no_step_mixes_before_and_after_the_fault() -> None:
    """The fault begins half way between two rows: two lines per second before it, none within half a second after."""
    view = quiet(rows=8)
    inject = view.inject_time + pd.Timedelta("500ms")
    lines = [(at + offset, "a", "info", "line") for at in range(-5, 0) for offset in (0.2, 0.7)]
    lines += [(1.7, "a", "info", "line")] * 2
    view = with_logs(replace(view, inject_time=inject), lines)
    assert columns(view)[("a", "log_lines")] == pytest.approx(
        np.sqrt(5)
    )  # 2 a step, then 0: a departure from a constant


def test_a_span_counts_when_it_ends() -> None:
    """A call that the fault held up began before it."""
    roots = [*[call("b", at + 0.1, d) for at, d in zip(range(-5, 0), (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)]]
    roots.append(call("b", -0.8, 1.2))
    assert columns(with_traces(quiet(), roots))[("b", "span_latency op")] == pytest.approx((1.2 - 0.3) / 0.2)


def test_counts_are_not_scored_in_raw_units_where_the_interquartile_range_is_0() -> None:
    """A burst of 1000 lines after silence scores like any departure from a constant."""
    view = with_logs(quiet(), [*logged([1], service="b"), *logged([1000], first=0)])
    assert columns(view)[("a", "log_lines")] == pytest.approx(np.sqrt(5))


def test_a_source_that_was_recorded_on_one_side_only_says_nothing() -> None:
    late = with_logs(with_traces(quiet(), [call("b", 0.1, 0.5, status=500)]), logged([9], first=0))
    assert columns(late) == {("a", "cpu"): 0}


def test_templates_can_have_columns_of_their_own() -> None:
    view = with_logs(quiet(), [*logged([1, 2, 3, 4, 5, 3]), (0.5, "a", "error", "line"), (0.6, "a", None, "line")])
    logs = view.logs
    logs = logs.assign(template_id=["t"] + [None] * (len(logs) - 1))
    found = columns(replace(view, logs=logs), log_lines="template")
    assert {metric for _, metric in found} == {
        "cpu", "log_lines", "log_lines t", "log_lines info", "log_lines error", "log_lines no level"
    }  # fmt: skip
    assert found[("a", "log_lines error")] == pytest.approx(np.sqrt(5))


def test_logs_alone_are_enough() -> None:
    """Steps of 5 s: 1 to 5 lines a step, then 9, and one line after the last whole step."""
    lines = [(5 * at + 1.0, "a", "info", "line") for at, n in zip(range(-5, 1), (1, 2, 3, 4, 5, 9), strict=True)
             for _ in range(n)]  # fmt: skip
    view = with_logs(no_metrics(), [(-25.0, "b", "info", "line"), *lines, (5.0, "b", "info", "line")])
    assert columns(view)[("a", "log_lines")] == pytest.approx(3)


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(MethodError, match="no metric, log or span on both sides"):
        mmbaro(no_metrics(), RNG)


def test_an_absurd_time_is_refused() -> None:
    view = with_logs(no_metrics(), [(-1e9, "a", "info", "line"), (10.0, "a", "info", "line")])
    with pytest.raises(MethodError, match="stops at 100000"):
        mmbaro(view, RNG)


def test_services_that_are_no_candidates_are_left_out() -> None:
    view = with_traces(quiet(), [call("stranger", at + 0.1, 0.5) for at in range(-5, 1)])
    assert set(dict(mmbaro(replace(view, services=("a",)), RNG).services)) == {"a"}
