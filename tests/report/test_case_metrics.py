from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import Case
from tasks.report import case_metrics
from tasks.report.case_metrics import KEY_METRICS, case_signals, drawn_services, metric_order, phase_medians, time_grid
from tasks.report.fleet_map import MAX_SIGMAS
from tests.copies import copied
from tests.synthetic import T0, synthetic_case

START = pd.Timestamp(T0).as_unit("ns")


def long(rows: dict[tuple[str, str], dict[float, float]]) -> pd.DataFrame:
    """``{(metric, service): {second: value}}`` as a metrics table."""
    flat = [(START + pd.Timedelta(seconds=t), s, m, v) for (m, s), points in rows.items() for t, v in points.items()]
    return pd.DataFrame(flat, columns=["time", "service", "metric", "value"]).assign(unit="s", source="test")


@pytest.fixture
def with_metrics(tmp_path: Path) -> Callable[[pd.DataFrame], Case]:
    """A case (fault at 25-50 s on ray-replicas-1) whose metrics are replaced."""
    case = synthetic_case(tmp_path)

    def rewrite(metrics: pd.DataFrame) -> Case:
        return copied(case, tables={"metrics": metrics})

    return rewrite


def grid_of(seconds: list[float]) -> case_metrics.TimeGrid:
    return time_grid(pd.DataFrame({"metric": "m", "service": "s", "seconds": seconds}))


def test_grid_keeps_the_sampling_interval() -> None:
    grid = grid_of([-2.0, -1.0, 0.0, 2.0, 3.0])
    assert (grid.start_s, grid.step_s, grid.points, grid.averaged) == (-2.0, 1.0, 6, False)


def test_grid_is_coarsened_for_long_cases() -> None:
    grid = grid_of(list(np.arange(0, 1200.0)))
    assert grid.points <= case_metrics.MAX_POINTS + 1
    assert (grid.step_s, grid.averaged) == (5.0, True)


def test_one_sample_is_a_grid_too() -> None:
    assert grid_of([3.0]).points == 1


def test_sources_sampled_at_different_offsets_do_not_shrink_the_step() -> None:
    table = pd.DataFrame(
        {"metric": "m", "service": ["a"] * 10 + ["b"] * 10, "seconds": [*range(10), *(i + 0.3 for i in range(10))]}
    )
    assert time_grid(table).step_s == 1.0


def test_lines_hold_the_values_and_gaps_stay_gaps(with_metrics: Callable[[pd.DataFrame], Case]) -> None:
    found = case_signals(
        with_metrics(
            long(
                {
                    ("cpu_usage", "ray-replicas-1"): {24: 1.0, 25: 2.0, 28: 3.0},
                    ("cpu_usage", "ray-replicas-0"): {24: 5.0, 25: np.nan, 26: 6.0, 27: 7.0, 28: 8.0},
                }
            )
        )
    )
    assert found is not None
    (panel,) = found.panels
    lines = {line.service: line.values.tolist() for line in panel.lines}
    assert lines["ray-replicas-1"] == pytest.approx([1, 2, np.nan, np.nan, 3], nan_ok=True)
    assert lines["ray-replicas-0"] == pytest.approx([5, np.nan, 6, 7, 8], nan_ok=True)
    assert found.gaps == ("ray-replicas-2: cpu_usage",)


def test_medians_and_change(with_metrics: Callable[[pd.DataFrame], Case]) -> None:
    baseline = {0: 1.0, 1: 2.0, 2: 3.0}
    found = case_signals(with_metrics(long({("cpu_usage", "ray-replicas-1"): baseline | {30: 7.0, 31: 9.0, 55: 4.0}})))
    assert found is not None
    (shift,) = found.shifts
    assert (shift.baseline, shift.fault, shift.recovery) == (2.0, 8.0, 4.0)
    assert shift.sigmas == pytest.approx(6.0)


@pytest.mark.parametrize(("during", "sigmas"), [(0.0, 0.0), (5.0, MAX_SIGMAS)])
def test_change_from_a_constant_zero(during: float, sigmas: float, tmp_path: Path) -> None:
    record = synthetic_case(tmp_path).record
    metrics = long({("errors", "ray-head"): {0: 0.0, 1: 0.0, 30: during, 31: during}})
    assert phase_medians(record, metrics)["sigmas"].tolist() == [sigmas]


def test_key_metrics_come_first_then_the_most_changed_on_the_target() -> None:
    changes = pd.DataFrame(
        {"target": [0.1, 5.0, 9.0, 0.0], "other": [0.1, 99.0, 0.0, 0.0]}, index=["cpu_usage", "a", "b", "c"]
    )
    assert metric_order(changes, ("target",)) == ["cpu_usage", "b", "a", "c"]
    assert metric_order(changes, ()) == ["cpu_usage", "a", "b", "c"]


def test_constant_metrics_come_last_even_key_ones(with_metrics: Callable[[pd.DataFrame], Case]) -> None:
    flat, moving = {0: 3.0, 1: 3.0, 30: 3.0}, {0: 1.0, 1: 1.5, 30: 2.0}
    found = case_signals(
        with_metrics(
            long(
                {
                    ("cpu_usage", "ray-head"): flat,
                    ("other", "ray-head"): moving,
                    ("requests_waiting", "ray-head"): flat,
                    ("requests_waiting", "ray-replicas-1"): {0: 4.0},
                }
            )
        )
    )
    assert found is not None
    assert [panel.metric for panel in found.panels] == ["requests_waiting", "other", "cpu_usage"]


def test_every_synthetic_metric_has_a_panel_with_the_target(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    found = case_signals(case)
    assert found is not None
    assert {panel.metric for panel in found.panels} == set(case.metrics["metric"])
    assert found.panels[0].metric == KEY_METRICS[0]
    assert all("ray-replicas-1" in [line.service for line in panel.lines] for panel in found.panels)
    assert not found.banded
    assert not found.left_out


def test_many_services_become_a_band(with_metrics: Callable[[pd.DataFrame], Case], tmp_path: Path) -> None:
    services = tuple(f"s{i:02d}" for i in range(41))
    changes = pd.DataFrame({name: [float(i == 30) * 9] for i, name in enumerate(services)}, index=["m"])
    drawn = drawn_services(changes, ("s07", "s00"), services)
    assert len(drawn) == case_metrics.MAX_LINES
    assert {"s00", "s07", "s30"} <= set(drawn)


def test_band_spans_the_services_that_are_not_drawn(
    with_metrics: Callable[[pd.DataFrame], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_metrics, "MAX_LINES", 2)
    values = {"nginx-proxy": 1.0, "ray-head": 2.0, "ray-replicas-0": 3.0, "ray-replicas-1": 9.0, "ray-replicas-2": 4.0}
    found = case_signals(with_metrics(long({("m", name): {0: v, 1: v, 30: v} for name, v in values.items()})))
    assert found is not None
    (panel,) = found.panels
    assert [line.service for line in panel.lines] == ["nginx-proxy", "ray-replicas-1"]
    assert panel.band_low is not None
    assert panel.band_high is not None
    assert (panel.band_low[0], panel.band_high[0], panel.band_services) == (2.0, 4.0, 3)
    assert found.banded


def test_panels_are_capped_and_the_rest_is_named(
    with_metrics: Callable[[pd.DataFrame], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_metrics, "MAX_PANELS", 2)
    rows = {
        (name, "ray-replicas-1"): {0: 1.0, 1: 1.1, 30: change} for name, change in [("a", 2.0), ("b", 9.0), ("c", 4.0)]
    }
    found = case_signals(with_metrics(long(rows)))
    assert found is not None
    assert [panel.metric for panel in found.panels] == ["b", "c"]
    assert found.left_out == ("a",)


def test_no_samples_no_signals(with_metrics: Callable[[pd.DataFrame], Case]) -> None:
    assert case_signals(with_metrics(long({("m", "ray-head"): {0: np.nan}}))) is None
