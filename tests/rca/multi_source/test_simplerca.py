from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.multi_source.simplerca import simplerca
from tasks.rca.view import CaseView
from tests.rca.traces import call, no_metrics, with_logs, with_traces
from tests.rca.views import view_of

NORMAL = [0.0, 2.0] * 5
"""Mean 1, standard deviation 1; 95th percentile 2."""


def alerts(view: CaseView, **parameters: Any) -> dict[str, float]:
    return dict(simplerca(view, np.random.default_rng(0), **parameters).services)


def metrics(**after: list[float]) -> CaseView:
    """One metric ``x`` per service, ten normal rows before ``after``."""
    return view_of({(service, "x"): [*NORMAL, *values] for service, values in after.items()}, normal_rows=10)


def test_each_sample_beyond_three_sigma_is_an_alert() -> None:
    view = metrics(a=[4.5, 3.9, 9, 1], b=[-2.5, 1, 1, 1], c=[1, 2, 0, 3])
    assert alerts(view) == {"a": 2, "b": 1, "c": 0}
    assert alerts(view, direction="up") == {"a": 2, "b": 0, "c": 0}
    assert alerts(view, count="rules") == {"a": 1, "b": 1, "c": 0}


def test_or_beyond_the_95th_percentile() -> None:
    assert alerts(metrics(a=[2.1, 3, 1, 2], b=[-9, 1, 1, 1]), metric_rule="p95") == {"a": 2, "b": 0}


def test_an_operation_alerts_in_steps_with_a_95th_percentile_above_three_times_its_baseline() -> None:
    """Normal: 1 s. Then two slow calls in one step, one in the next, and one that is not slow enough."""
    roots = [call("a", at + 0.05, 0.1) for at in range(-9, 0)]
    roots += [call("a", 0.1, 0.4), call("a", 0.2, 0.4), call("a", 1.1, 0.4), call("a", 2.1, 0.29)]
    view = with_traces(metrics(a=[1.0] * 4, b=[1.0] * 4), roots)
    with pytest.raises(MethodError, match="no alert"):
        alerts(view, latency_factor=5.0)
    assert alerts(view) == {"a": 2, "b": 0}
    assert alerts(view, count="rules") == {"a": 1, "b": 0}


def test_each_log_line_with_an_error_word_is_an_alert() -> None:
    lines = [
        (-1.0, "b", "error", "before the fault"),
        (0.5, "a", "info", "Connection TIMEOUT"),
        (0.6, "a", "error", "gone"),
        (0.7, "b", "info", "fine"),
        (0.8, "stranger", "error", "not a candidate"),
    ]
    assert alerts(with_logs(metrics(a=[1.0], b=[1.0]), lines)) == {"a": 2, "b": 0}


def test_the_root_cause_has_the_most_alerts_of_all_kinds() -> None:
    """The rule of the paper: a has three metric alerts, b two and two error lines."""
    view = metrics(a=[9, 9, 9, 1], b=[9, 9, 1, 1])
    lines = [(0.5, "b", "error", "x"), (1.5, "b", "error", "x")]
    assert alerts(with_logs(view, lines)) == {"a": 3, "b": 4}


def test_a_departure_from_a_constant_alerts_once_it_was_constant_long_enough() -> None:
    """Ten samples without a deviation are worth more than three; nine are not (see features/deviation)."""
    columns = {("a", "errors"): [0.0] * 10 + [5.0, 5.0], ("b", "errors"): [0.0] * 12}
    assert alerts(view_of(columns, normal_rows=10)) == {"a": 2, "b": 0}
    with pytest.raises(MethodError, match="no alert"):
        alerts(view_of({name: values[1:] for name, values in columns.items()}, normal_rows=9))


def test_samples_that_stop_alert() -> None:
    columns = {(name, "x"): [1.0, 2.0] * 10 for name in "abcde"}
    columns["a", "x"][10:] = [np.nan] * 10
    view = view_of(columns, normal_rows=10)
    assert alerts(view) == {"a": 10, "b": 0, "c": 0, "d": 0, "e": 0}


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(MethodError, match="no metric or span on both sides"):
        alerts(no_metrics())
    view = metrics(a=[9.0])
    with pytest.raises(MethodError, match="no metric or span on both sides"):
        alerts(replace(view, inject_time=view.metrics.index[0]))
