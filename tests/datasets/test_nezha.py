"""Nezha: a day of metrics with many faults, spans and logs for the minutes around each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import Case
from tasks.datasets.dataset import DatasetError, Overrides
from tasks.datasets.nezha import find
from tests.datasets.layouts import NEZHA_PODS, NEZHA_START, imported, imported_cases, nezha

FIRST = datetime(2023, 1, 30, 11, 51, 46, tzinfo=UTC)
SECOND = datetime(2023, 1, 30, 11, 59, 21, tzinfo=UTC)
SERVICES = {"ts-ui-dashboard", "ts-basic-service", "ts-food-service"}


def by_time(cases: list[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: case.record.injection_time)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    root = tmp_path_factory.mktemp("nezha")
    return by_time(imported_cases("nezha", nezha(root / "set"), root / "cases"))


def test_one_case_per_fault_at_inject_time_as_utc(cases: list[Case]) -> None:
    assert [case.record.injection_time for case in cases] == [FIRST, SECOND]
    assert [case.record.injections[0].kind for case in cases] == ["network_delay", "cpu_contention"]
    assert all(case.record.phases[1].end - case.record.injection_time == timedelta(minutes=3) for case in cases)


def test_pods_are_called_by_their_service(cases: list[Case]) -> None:
    assert set(cases[0].record.service_names) == SERVICES
    assert cases[0].record.injections[0].target == "ts-basic-service"
    assert cases[0].record.injections[0].parameters["pod"] == NEZHA_PODS[1]


def test_several_pods_of_a_service_keep_their_names(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    metric = root / "rca_data/2023-01-30/metric"
    other = NEZHA_PODS[1].replace("llznp", "abcde")
    text = (metric / f"{NEZHA_PODS[1]}_metric.csv").read_text()
    (metric / f"{other}_metric.csv").write_text(text.replace(NEZHA_PODS[1], other))
    case = by_time(imported_cases("nezha", root, tmp_path / "cases"))[0]
    assert set(case.record.service_names) == {"ts-ui-dashboard", "ts-food-service", NEZHA_PODS[1], other}
    assert case.record.injections[0].target == NEZHA_PODS[1]


def test_the_metric_level_truth_is_stated_for_cpu_only(cases: list[Case]) -> None:
    assert [case.record.injections[0].metrics for case in cases] == [(), ("cpu_usage", "cpu_usage_ratio")]
    assert cases[0].record.injections[0].parameters["stated_root_cause"] == "NetworkP90(ms)"


def test_the_front_end_is_the_service_with_the_latency_of_front_service(cases: list[Case]) -> None:
    assert {case.record.front_end for case in cases} == {"ts-ui-dashboard"}
    metrics = cases[0].metrics
    assert set(metrics[metrics["metric"] == "latency_p50"]["service"]) == {"ts-ui-dashboard"}


def test_each_round_of_samples_is_one_time_on_an_exact_grid(cases: list[Case]) -> None:
    offsets = cases[0].metrics["time"] - pd.Timestamp(NEZHA_START)
    assert set(offsets % pd.Timedelta("60s")) == {pd.Timedelta(0)}
    assert cases[0].metrics.groupby(["service", "metric"])["time"].nunique().nunique() == 1


def moments(case: Case) -> list[pd.Timestamp]:
    return [pd.Timestamp(time) for time in np.sort(case.metrics["time"].unique())]


def test_the_baseline_leaves_out_the_faults_before_and_is_made_up_from_after(cases: list[Case]) -> None:
    """12 rounds before the first fault, one (11:58:53) between the two, three (12:06:53 on) after the second."""
    first, second = (moments(case) for case in cases)
    assert [time for time in second if FIRST <= time < FIRST + timedelta(minutes=7)] == []
    assert sum(time < SECOND for time in second) == 3 + 12 + 1
    assert sum(time < FIRST for time in first) == 4 + 12
    assert [sum(time >= inject for time in times) for inject, times in ((FIRST, first), (SECOND, second))] == [3, 3]
    assert [case.record.versions["baseline"] for case in cases] == [
        "metrics: 12 minutes before the injection, 420 s or more after any other; "
        "4 such minutes after it, moved by -1800 s to end where those begin",
        "metrics: 13 minutes before the injection, 420 s or more after any other; "
        "3 such minutes after it, moved by -1800 s to end where those begin",
    ]


def test_minutes_of_the_baseline_from_after_the_fault_keep_their_values_and_gaps(cases: list[Case]) -> None:
    first = moments(cases[0])
    begin = pd.Timestamp(NEZHA_START)
    assert first[:5] == [begin - timedelta(minutes=m) for m in (11, 3, 2, 1)] + [begin]
    assert cases[0].record.phases[0].start == begin - timedelta(minutes=11)
    samples = cases[0].metrics.set_index(["service", "metric", "time"])["value"].sort_index()
    others = cases[1].metrics.set_index(["service", "metric", "time"])["value"].sort_index()
    moved = begin - timedelta(minutes=11)
    at = ("ts-food-service", "memory_working_set")
    assert samples[(*at, moved)] == others[(*at, moved + timedelta(minutes=30))], "11:58:53, in both cases"


def test_a_long_day_needs_no_minute_from_after_the_fault(tmp_path: Path) -> None:
    """The half hour once more an hour earlier, and one fault near the end of it all."""
    root = nezha(tmp_path / "set", events=False)
    file = root / "rca_data/2023-01-30/2023-01-30-fault_list.json"
    fault = {"inject_time": "2023-01-30 12:05:10", "inject_pod": NEZHA_PODS[1], "inject_type": "return"}
    file.write_text(json.dumps({"12": [fault]}))
    for metrics in (file.parent / "metric").glob("*.csv"):
        title, *lines = metrics.read_text().splitlines()
        earlier = [line.replace("-30 11:", "-30 10:").replace("-30 12:", "-30 11:") for line in lines]
        metrics.write_text("\n".join([title, *earlier, *lines]) + "\n")
    (case,) = imported_cases("nezha", root, tmp_path / "cases")
    assert case.record.versions["baseline"] == "metrics: 56 minutes before the injection, 420 s or more after any other"
    assert case.metrics["time"].min() == pd.Timestamp(NEZHA_START - timedelta(hours=1))


def test_units_are_ours_and_a_rate_that_is_always_zero_is_left_out(cases: list[Case]) -> None:
    metrics = cases[0].metrics
    units = dict(zip(metrics["metric"].astype(str), metrics["unit"].astype(str), strict=True))
    assert units["cpu_usage"] == "cores"
    assert units["memory_working_set"] == "bytes"
    assert "success_ratio" not in units
    memory = metrics[metrics["metric"] == "memory_working_set"]["value"]
    assert memory.between(600 * 2**20, 601 * 2**20).all()
    assert metrics[metrics["metric"] == "cpu_usage"]["value"].max() < 0.0025 + 1e-12


def test_spans_keep_their_times_and_the_fault_free_minute_comes_before_them(cases: list[Case]) -> None:
    spans = cases[0].spans
    assert len(spans) == (1 + 3) * 4 * 2
    labels = spans["trace_id"].str[:5]
    first = spans.groupby(labels)["start"].min()
    assert first["11_51"] == pd.Timestamp("2023-01-30T11:50:55.000000001Z")
    assert first["11_39"] == pd.Timestamp("2023-01-30T11:49:55.000000001Z")
    assert cases[0].record.versions["fault-free spans"].startswith("moved by 660 s")
    assert spans[spans["parent_span_id"].isna()]["service"].astype(str).unique().tolist() == ["ts-ui-dashboard"]
    assert spans["duration"].min() == 0.005
    assert cases[0].record.completeness["spans"].status == "partial"


def test_logs_are_unwrapped_and_lines_of_another_day_left_out(cases: list[Case]) -> None:
    logs = cases[0].logs
    assert len(logs) == (1 + 3) * 4
    assert logs["level"].unique().tolist() == ["info"]
    assert logs["message"].str.match(r"Basic#\d TraceID: ").all()


def test_topology_is_from_spans_and_logs(cases: list[Case]) -> None:
    edges = set(cases[0].topology.astype(str).itertuples(index=False, name=None))
    assert edges == {("calls", "ts-ui-dashboard", "ts-basic-service"), ("runs_on", "ts-basic-service", "33.33.33.80")}


def test_a_front_end_without_spans_calls_the_service_in_which_traces_begin(tmp_path: Path) -> None:
    case = by_time(imported_cases("nezha", nezha(tmp_path / "set"), tmp_path / "cases", front_end="ts-food-service"))[0]
    assert ("calls", "ts-food-service", "ts-ui-dashboard") in set(case.topology.itertuples(index=False, name=None))
    assert "is taken to call ts-ui-dashboard" in case.record.versions["topology"]


def test_without_events_dependency_csv_is_the_topology(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    (root / "rca_data/2023-01-30/metric/dependency.csv").write_text(
        "Source,Target,Weight\nts-ui-dashboard,ts-food-service,1\nts-food-service,10.0.0.1,1\nloadgenerator,10.0.0.2,1\n"
    )
    case = imported_cases("nezha", root, tmp_path / "cases")[0]
    edges = set(case.topology.astype(str).itertuples(index=False, name=None))
    assert edges == {("calls", "ts-ui-dashboard", "ts-food-service"), ("runs_on", "ts-food-service", "10.0.0.1")}
    assert case.record.completeness["spans"].status == "missing"


def test_the_front_end_can_be_given(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    (root / "rca_data/2023-01-30/metric/front_service.csv").unlink()
    result = imported("nezha", root, tmp_path / "cases")
    assert len(result.failed) == 2
    assert "cannot tell the front end; give --front-end (one of ts-basic-service, " in result.failed[0]
    assert imported_cases("nezha", root, tmp_path / "cases", front_end="ts-food-service")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"inject_time": "soon"}, "inject_time 'soon' must be <date> <time>"),
        ({"inject_time": "2024-01-01 00:00:00"}, "no row after the injection at 2024-01-01 00:00:00"),
        ({"inject_time": "2023-01-30 11:00:00"}, "no row after the injection at 2023-01-30 11:00:00"),
        ({"inject_time": "0001-01-01 00:00:00"}, "must be <date> <time> after 1970"),
        ({"inject_time": "9999-12-31 23:59:59"}, "must be <date> <time> after 1970"),
        ({"inject_pod": None}, "expected inject_pod and inject_type"),
        ({"inject_pod": "mongo-5dc8d4f9fd-llznp"}, "inject_pod 'mongo-5dc8d4f9fd-llznp' has no metrics, spans or logs"),
    ],
)
def test_a_broken_entry_does_not_stop_the_others(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    root = nezha(tmp_path / "set")
    file = root / "rca_data/2023-01-30/2023-01-30-fault_list.json"
    document = json.loads(file.read_text())
    document["11"][1].update(change)
    file.write_text(json.dumps(document))
    result = imported("nezha", root, tmp_path / "cases")
    assert len(result.imported) == 1
    (line,) = result.failed
    assert expected in line


def test_a_directory_of_something_else_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected the layout of Nezha: rca_data"):
        find(tmp_path, Overrides())
    (tmp_path / "x-fault_list.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"x-fault_list\.json: expected"):
        find(tmp_path, Overrides())
