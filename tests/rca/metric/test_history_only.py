from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.context import Context, MetricFacts
from tasks.rca.method import MethodError
from tasks.rca.metric.history_only import FLOORS, history_only, scale_of
from tasks.rca.view import CaseView
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def scores(view: CaseView) -> dict[tuple[str, str], float]:
    return {(service, metric): score for service, metric, score in history_only(view, RNG).metrics}


def test_known_answer_of_each_scale() -> None:
    """No noise, so a change counts in floors: 0.2 of a share is 4; 4 requests after 1 are 2 sqrt(4) - 2 sqrt(1) = 2, 4
    floors; bytes from 1 to 2 (the largest): ln((1 + .05) / (.5 + .05)) / ln 1.15."""
    columns = {
        ("a", "kv_cache_usage"): [0.3] * 6 + [0.5] * 3,
        ("a", "requests_running"): [1.0] * 6 + [4.0] * 3,
        ("b", "memory_rss"): [1.0] * 6 + [2.0] * 3,
        ("b", "own"): [1.0] * 6 + [1.0] * 3,
    }
    expected = {
        ("a", "kv_cache_usage"): 4.0,
        ("a", "requests_running"): 4.0,
        ("b", "memory_rss"): np.log(1.05 / 0.55) / np.log(1.15),
        ("b", "own"): 0.0,
    }
    assert scores(view_of(columns, normal_rows=6)) == pytest.approx(expected)


def test_noise_is_what_medians_of_half_the_past_differ_by() -> None:
    """Shares, four rows: halves .1 .1 | .3 .3 differ by .2; the change to .5 is .3 from the median .2."""
    view = view_of({("a", "kv_cache_usage"): [0.1, 0.1, 0.3, 0.3, 0.5]}, normal_rows=4)
    assert scores(view)["a", "kv_cache_usage"] == pytest.approx(0.3 / np.hypot(0.2, 0.05))
    """Five rows: (.1 .1 | .3 .3) and (.1 .3 | .3 .3) differ by .2 and .1."""
    view = view_of({("a", "kv_cache_usage"): [0.1, 0.1, 0.3, 0.3, 0.3, 0.6]}, normal_rows=5)
    noise = np.sqrt((0.2**2 + 0.1**2) / 2)
    assert scores(view)["a", "kv_cache_usage"] == pytest.approx(0.3 / np.hypot(noise, 0.05))


def test_one_outlier_is_no_change_and_falls_count_as_rises() -> None:
    columns = {("a", "kv_cache_usage"): [0.5] * 6 + [0.5, 0.9, 0.5], ("b", "kv_cache_usage"): [0.5] * 6 + [0.3] * 3}
    assert dict(history_only(view_of(columns, normal_rows=6), RNG).services) == pytest.approx({"a": 0, "b": 4})


def test_a_small_change_of_a_quiet_metric_is_small() -> None:
    """1 % up with no noise at all would be infinitely many standard deviations."""
    view = view_of({("a", "memory_rss"): [1e9] * 6 + [1.01e9] * 3}, normal_rows=6)
    assert scores(view)["a", "memory_rss"] < 0.1


def test_the_unit_of_the_case_comes_before_that_of_the_vocabulary() -> None:
    view = view_of({("a", "own"): [0.3] * 6 + [0.5] * 3}, normal_rows=6)
    as_share = replace(view, context=Context(metrics={("a", "own"): MetricFacts(unit="ratio", source=None)}))
    assert scores(as_share)["a", "own"] == pytest.approx(4.0)
    assert scores(view)["a", "own"] == pytest.approx(np.log(1.05 / 0.65) / FLOORS["ratio"])
    assert [scale_of(unit) for unit in ("ratio", "s/s", "requests", "bytes", "")] == [
        "share", "share", "count", "ratio", "ratio",
    ]  # fmt: skip


def test_samples_that_stop_count() -> None:
    columns = {(name, "memory_rss"): [1.0] * 12 for name in "abcde"}
    columns["c", "memory_rss"][6:] = [np.nan] * 6
    found = dict(history_only(view_of(columns, normal_rows=6), RNG).services)
    assert found == pytest.approx({"a": 0, "b": 0, "c": found["c"], "d": 0, "e": 0})
    assert found["c"] > 3


def test_needs_samples_on_both_sides() -> None:
    view = view_of({("a", "x"): [1.0, 2.0]}, normal_rows=1)
    with pytest.raises(MethodError, match="before the inject time"):
        history_only(replace(view, inject_time=view.metrics.index[0]), RNG)
