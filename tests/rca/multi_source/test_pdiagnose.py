from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import gaussian_kde, norm

from tasks.rca.features.deviation import Direction
from tasks.rca.method import MethodError
from tasks.rca.multi_source.pdiagnose import _in_tail, _sudden, pdiagnose
from tasks.rca.view import CaseView
from tests.rca.traces import call, no_metrics, with_logs, with_traces
from tests.rca.views import view_of

RNG = np.random.default_rng(0)
STEADY = [1.0, 2.0] * 10


def metrics(*, a: list[float], b: list[float]) -> CaseView:
    """20 normal rows of two services, one per second, then these."""
    return view_of({("a", "x"): [*STEADY, *a], ("b", "x"): [*STEADY, *b]}, normal_rows=20)


CALM = metrics(a=[1, 2, 1, 2], b=[1, 2, 1, 2])


def votes(view: CaseView, **parameters: Any) -> dict[str, float]:
    return dict(pdiagnose(view, RNG, **parameters).services)


def test_known_answer() -> None:
    """a: 2 of 4 samples, 1 of 4 steps with an error line, 1 of 2 spans. b: nothing."""
    view = metrics(a=[50, 50, 1, 2], b=[1, 2, 1, 2])
    view = with_traces(view, [call(s, t, d) for s in "ab" for t, d in ((-9, 1), (-5, 1), (0, 1), (1, 1))])
    view = replace(view, spans=view.spans.assign(duration=[1, 1, 1, 2, 1, 1, 1, 1.0]))
    view = with_logs(view, [(2.1, "a", "info", "an error"), (2.2, "a", "info", "an error"), (0.1, "b", "info", "fine")])
    n_sigma = {"n_sigma": 3.0, "window": 20}  # no normal departure from an average of 20: kernel density alone
    assert votes(view, **n_sigma) == pytest.approx({"a": 0.5 + 0.25 + 0.5, "b": 0})
    assert votes(view, **n_sigma, metric_votes=0.0, log_votes=2.0, span_votes=3.0) == pytest.approx({"a": 2, "b": 0})


def test_a_metric_that_never_moves_gives_no_vote() -> None:
    view = view_of({("idle", "gpu"): [0.0] * 24, ("a", "x"): [*STEADY, 50, 50, 50, 50]}, normal_rows=20)
    assert votes(view) == pytest.approx({"idle": 0, "a": 1})


def test_a_constant_that_departs_votes_and_rounding_noise_does_not() -> None:
    view = view_of({("a", "x"): [3.0] * 20 + [3, 3, 4, 4], ("b", "x"): [3.0] * 20 + [3 + 1e-12] * 4}, normal_rows=20)
    assert votes(view) == pytest.approx({"a": 0.5, "b": 0})


def test_lines_before_the_fault_do_not_vote() -> None:
    view = with_logs(CALM, [(-3.0, "a", "error", "failed"), (2.0, "b", "info", "failed")])
    assert votes(view) == pytest.approx({"a": 0, "b": 0.25})


@pytest.mark.parametrize(
    ("level", "message", "found"),
    [
        ("info", "Connection FAILED", True),
        ("info", "java.lang.RuntimeException: no", True),
        ("info", "upstream TimeOut", True),
        ("error", "no", True),
        ("critical", "no", True),
        ("warning", "slow", False),
        (None, "fine", False),
    ],
)
def test_keywords_are_found_in_any_case_and_in_the_level(level: str | None, message: str, found: bool) -> None:
    view = with_logs(CALM, [(1.0, "a", level, message), (1.0, "b", "info", "problem")])
    assert votes(view) == pytest.approx({"a": 0.25 * found, "b": 0.25})
    if level == "warning":
        assert votes(view, keywords="warn")["a"] == pytest.approx(0.25)


def test_many_lines_and_spans_do_not_outvote_the_metrics() -> None:
    view = metrics(a=[50, 50, 50, 50], b=[1, 2, 1, 2])
    view = with_logs(view, [(0.001 * i, "b", "info", "error") for i in range(900)])
    assert votes(view) == pytest.approx({"a": 1, "b": 0.25})


def test_a_service_with_more_metrics_has_no_more_votes() -> None:
    busy = {("b", f"x{i}"): [*STEADY, 50, 50, 1, 2] for i in range(5)}
    view = view_of({("a", "x"): [*STEADY, 50, 50, 50, 1], **busy}, normal_rows=20)
    assert votes(view, window=20) == pytest.approx({"a": 0.75, "b": 0.5})


def test_an_operation_that_was_not_seen_before_gives_no_vote() -> None:
    roots = [call("a", -9, 1), call("a", -5, 1), call("a", 1, 9), call("b", 1, 99)]
    assert votes(with_traces(CALM, roots)) == pytest.approx({"a": 1, "b": 0})


def test_self_time_does_not_blame_the_caller() -> None:
    roots = [call("a", t, d + 1, call("b", t, d)) for t, d in ((-9, 1), (-5, 1), (1, 9))]
    view = with_traces(CALM, roots)
    assert votes(view) == pytest.approx({"a": 1, "b": 1})
    assert votes(view, duration="self") == pytest.approx({"a": 0, "b": 1})


def test_falls_count_unless_only_rises_are_asked_for() -> None:
    view = metrics(a=[-50, -50, -50, -50], b=[50, 50, 50, 1])
    assert votes(view, window=20) == pytest.approx({"a": 1, "b": 0.75})
    assert votes(view, window=20, direction="up") == pytest.approx({"a": 0, "b": 0.75})


@pytest.mark.parametrize("n_sigma", [1.0, 2.0, 3.0])
def test_tails_are_those_of_the_kernel_density(n_sigma: float) -> None:
    rng = np.random.default_rng(0)
    normal, values = np.sort(rng.standard_normal(30)), np.linspace(-6, 6, 500)
    density = gaussian_kde(normal, bw_method=30**-0.2 * np.sqrt(29 / 30))
    above = np.array([density.integrate_box_1d(value, np.inf) for value in values])
    tail = norm.cdf(-n_sigma)
    beyond: dict[Direction, np.ndarray] = {"both": np.minimum(above, 1 - above), "up": above}
    for direction, probability in beyond.items():
        found = _in_tail(normal, values, normal.std(), tail, direction)
        np.testing.assert_array_equal(found, probability < tail)


def test_a_jump_departs_from_the_weighted_moving_average_a_slow_drift_does_not() -> None:
    drift = np.arange(30.0) + np.tile([0.0, 0.5], 15)
    jump = drift.copy()
    jump[25:] += 5
    after = np.arange(30) >= 20
    values = np.column_stack([drift, jump])
    found = _sudden(values, np.ones(values.shape, dtype=bool), after, 3.0, "both", 5, np.arange(30))
    assert not found[:, 0].any()
    assert found[5, 1]
    assert not found[:5, 1].any()


def test_logs_alone_are_enough() -> None:
    view = with_logs(no_metrics(("a", "b")), [(1.0, "a", "info", "error"), (11.0, "b", "info", "fine")])
    assert votes(view) == pytest.approx({"a": 0.5, "b": 0})


def test_no_vote_is_no_ranking() -> None:
    with pytest.raises(MethodError, match="nothing is anomalous"):
        votes(CALM)
    with pytest.raises(MethodError, match="no metric or span on both sides"):
        votes(no_metrics())


def test_a_level_on_the_other_side_of_a_hole_is_not_the_one_just_before() -> None:
    values = np.r_[np.tile([0.0, 0.1], 10), np.tile([5.0, 5.1], 10)][:, None]
    after, sampled = np.arange(40) >= 20, np.ones((40, 1), dtype=bool)
    whole = _sudden(values, sampled, after, 3.0, "both", 5, np.arange(40))
    torn = _sudden(values, sampled, after, 3.0, "both", 5, np.arange(40) + np.where(np.arange(40) >= 20, 8, 0))
    assert whole[:5].any()
    assert not torn.any()
