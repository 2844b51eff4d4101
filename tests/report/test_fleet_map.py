from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.case import Case, Service
from tasks.report.case_metrics import BAND_QUANTILES, CaseSignals, case_signals
from tasks.report.data import report_data
from tasks.report.fleet_map import CLIP_SIGMAS, MAP_ROWS, SINGLE_ROWS, FleetMap, fleet_map, siblings_of
from tasks.report.sections.details import case_figure
from tests.copies import copied
from tests.report.scores import truth_at, write_scores
from tests.synthetic import synthetic_case

SECONDS = np.arange(-6.0, 6.0)


def service(name: str, gpus: int) -> Service:
    return Service(name=name, role="replica", devices=tuple(f"{name}-{i}" for i in range(gpus)))


def fleet(small: int, large: int) -> list[Service]:
    return [
        Service(name="head", role="head"),
        *(service(f"small-{i}", 1) for i in range(small)),
        *(service(f"large-{i}", 16) for i in range(large)),
    ]


def mapped(values: dict[str, list[float]], services: list[Service], targets: tuple[str, ...], **how: Any) -> FleetMap:
    """The map of metric ``m``; ``values``: those of a few services, the others alternate between 9 and 11."""
    names = [each.name for each in services if each.name != "head"]
    rows = [values.get(name, [9.0, 11.0] * 6) for name in names]
    index = pd.MultiIndex.from_product([["m"], names], names=["metric", "service"])
    sigmas = pd.DataFrame(5.0, index=["m"], columns=names)
    record: Any = SimpleNamespace(targets=targets, stack=SimpleNamespace(services=services))
    arguments: dict[str, Any] = {"order": ["m"], "key": (), "seconds": SECONDS, "suspects": ()} | how
    found = fleet_map(record, pd.DataFrame(rows, index=index), sigmas, **arguments)
    assert found is not None
    return found


def test_siblings_have_the_role_and_as_many_accelerators() -> None:
    services = fleet(3, 2)
    assert siblings_of(services, ["large-1"]) == {"large-0", "large-1"}
    assert siblings_of(services, ["small-0", "large-1"]) == {"small-0", "small-1", "small-2"}
    assert siblings_of(services, ["head", "large-0"]) == {"large-0", "large-1"}, "the head is alone"
    assert siblings_of(services, ["head"]) == siblings_of(services, []) == {"small-0", "small-1", "small-2"}


def test_deviation_by_hand() -> None:
    """Baseline 9 and 11: median 10, deviation 1; then 14, 5 and a hole. The flat one has 1 % of its median as scale."""
    hit = [9.0, 11.0] * 3 + [14.0, 5.0, np.nan, 10.0, 1000.0, -1000.0]
    flat = [100.0] * 6 + [102.0] * 6
    found = mapped({"small-1": hit, "small-0": flat}, fleet(2, 0), ("small-1",))
    assert [row.label for row in found.rows] == ["small-1", "small-0"]
    assert found.values[0, 6:].tolist() == pytest.approx([4, -5, np.nan, 0, CLIP_SIGMAS, -CLIP_SIGMAS], nan_ok=True)
    assert found.values[1].tolist() == pytest.approx([0] * 6 + [2] * 6)


def test_a_thousand_services_take_few_rows_and_nobody_who_strays_is_lost() -> None:
    services = fleet(700, 300)
    strayed = {f"small-{i}": [9.0, 11.0] * 3 + [30.0] * 6 for i in (3, 650)}
    found = mapped(strayed, services, ("large-7",), suspects=("small-9",))
    assert [row.first for row in found.rows[:4]] == ["large-7", "small-9", "small-3", "small-650"]
    assert found.single == SINGLE_ROWS
    assert SINGLE_ROWS < len(found.rows) <= MAP_ROWS + 2, "groups end a row"
    assert sum(row.count for row in found.rows) == 1000
    assert all(row.first.split("-")[0] == row.last.split("-")[0] for row in found.rows), "a row is of one group"
    assert found.values.shape == (len(found.rows), len(SECONDS))


def test_of_several_in_a_row_the_one_that_strays_most_counts_at_each_point() -> None:
    services = fleet(400, 0)
    away = {f"small-{i}": [9.0, 11.0] * 3 + [10.0 - 8 * (i == 390)] * 6 for i in range(380, 400)}
    farther = {f"small-{i}": [9.0, 11.0] * 3 + [40.0] * 6 for i in range(SINGLE_ROWS)}
    found = mapped(away | farther, services, ("small-0",))
    row = next(i for i, row in enumerate(found.rows) if row.count > 1 and found.values[i, 6] == -8)
    assert found.rows[row].first.startswith("small-38")


@pytest.mark.parametrize(
    ("sigmas", "chosen"),
    [
        ([5.0, 9.0, 7.0], "key"),
        ([2.0, 9.0, 7.0], "other"),
        ([2.0, 1000.0, 7.0], "third"),
        ([1000.0, 1000.0, 1000.0], "key"),
    ],
)
def test_the_metric_that_changed_most_a_key_metric_first(sigmas: list[float], chosen: str) -> None:
    """1000 is any change of what never moved: it has no scale."""
    services = fleet(3, 0)
    names = ["key", "other", "third"]
    index = pd.MultiIndex.from_product([names, [f"small-{i}" for i in range(3)]], names=["metric", "service"])
    table = pd.DataFrame({f"small-{i}": sigmas if i else [1.0, 1.0, 1.0] for i in range(3)}, index=names)
    record: Any = SimpleNamespace(targets=("small-1",), stack=SimpleNamespace(services=services))
    series = pd.DataFrame(np.ones((9, len(SECONDS))), index=index)
    found = fleet_map(record, series, table, names, ("key",), SECONDS, ())
    assert found is not None
    assert found.metric == chosen


def test_a_metric_that_the_siblings_lack_makes_no_map() -> None:
    services = fleet(3, 0)
    index = pd.MultiIndex.from_tuples([("m", "small-1")], names=["metric", "service"])
    record: Any = SimpleNamespace(targets=("small-1",), stack=SimpleNamespace(services=services))
    series = pd.DataFrame(np.ones((1, len(SECONDS))), index=index)
    table = pd.DataFrame({"small-1": [9.0]}, index=["m"])
    assert fleet_map(record, series, table, ["m"], (), SECONDS, ()) is None


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """110 replicas, the second half with two accelerators."""
    case = synthetic_case(
        tmp_path_factory.mktemp("fleet") / "cases", "big", replicas=110, baseline_s=8, fault_s=8, recovery_s=4
    )
    services = tuple(
        each.model_copy(update={"devices": ("a", "b") if i >= 57 else ("a",)}) if each.role == "replica" else each
        for i, each in enumerate(case.record.stack.services)
    )
    stack = case.record.stack.model_copy(update={"services": services})
    return copied(case, record=case.record.model_copy(update={"stack": stack}))


def signals_of(case: Case, *suspects: str) -> CaseSignals:
    found = case_signals(case, suspects=suspects)
    assert found is not None
    return found


def test_a_fleet_shows_the_suspects_in_the_band_of_their_siblings(large: Case) -> None:
    found = signals_of(large, "ray-replicas-99", "ray-replicas-60")
    assert {"ray-replicas-1", "nginx-proxy", "ray-replicas-99", "ray-replicas-60"} <= set(found.drawn)
    panel = next(each for each in found.panels if each.metric == "cpu_usage")
    others = [f"ray-replicas-{i}" for i in range(55) if f"ray-replicas-{i}" not in found.drawn]
    assert panel.band_services == len(others)
    samples = large.metrics[large.metrics["metric"] == "cpu_usage"].pivot(
        index="time", columns="service", values="value"
    )
    expected = np.quantile(samples[others].to_numpy(), BAND_QUANTILES, axis=1)
    assert panel.band_middle is not None
    for band, values in zip((panel.band_low, panel.band_middle, panel.band_high), expected, strict=True):
        assert band == pytest.approx(values)
    assert found.fleet is not None
    assert found.fleet.rows[0].label == "ray-replicas-1"
    assert found.fleet.values[0].max() > 3 > np.abs(found.fleet.values[0, :8]).max()


def test_what_most_siblings_lack_is_said_in_a_line(large: Case) -> None:
    kept = (large.metrics["metric"] != "cpu_usage") | ~large.metrics["service"].isin(
        [f"ray-replicas-{i}" for i in range(4, 20)]
    )
    lonely = large.record.model_copy(update={"case_id": "lacks"})
    found = signals_of(copied(large, record=lonely, tables={"metrics": large.metrics[kept]}))
    (gap,) = found.gaps
    assert gap == "cpu_usage: 16 services (ray-replicas-4, ray-replicas-5, ray-replicas-6, …)"


def test_the_page_of_a_fleet_names_few_services(large: Case, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    copied(large, cases_dir=cases)
    write_scores(cases, tmp_path / "scores", {"good": truth_at(1), "fair": truth_at(30)})
    (summary,) = report_data(cases, tmp_path / "scores", title="t").cases
    result = summary.result("fair")
    assert result is not None
    assert (result.listed, len(result.suspects), result.truth_ranks) == (112, 21, (30,))
    figure = case_figure(summary)
    assert figure is not None
    assert len(figure["services"]) <= 7
    assert "others" in figure["requests"]["services"]
    assert set(figure["requests"]["services"]) <= {"others", "ray-replicas-1"}
    assert len(figure["fleet"]["tenths"]) == len(figure["fleet"]["rows"])
    assert all("middle" in panel for panel in figure["panels"] if "low" in panel)


def test_a_small_stack_is_shown_as_ever(tmp_path: Path) -> None:
    found = signals_of(synthetic_case(tmp_path), "ray-head")
    assert found.fleet is None
    assert all(panel.band_middle is None for panel in found.panels)
