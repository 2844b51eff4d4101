"""PetShop: three header lines, a baseline recorded elsewhere in time, a graph of calls."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tasks.case import Case
from tasks.datasets.dataset import DatasetError, Overrides
from tasks.datasets.petshop import find
from tests.datasets.layouts import PETSHOP_INJECT, PETSHOP_NODES, imported, imported_cases, petshop


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    root = tmp_path_factory.mktemp("petshop")
    return imported_cases("petshop", petshop(root / "set"), root / "cases")


@pytest.fixture
def case(cases: list[Case]) -> Case:
    return next(case for case in cases if case.record.injections[0].target == PETSHOP_NODES[1])


def test_the_truth_is_what_target_json_says(case: Case) -> None:
    (injection,) = case.record.injections
    assert (injection.kind, injection.target, injection.verdict) == ("latency", PETSHOP_NODES[1], "effective")
    assert injection.reason == "stated by the data set"
    assert injection.metrics == ()
    assert injection.parameters == {"command": "slow it down"}
    assert case.record.front_end == "PetSite"


def test_every_node_of_the_graph_is_a_candidate_even_without_a_baseline(case: Case) -> None:
    assert set(case.record.service_names) == set(PETSHOP_NODES)
    assert {service.role for service in case.record.stack.services} == {"service"}


def test_the_baseline_ends_one_step_before_the_first_abnormal_row(case: Case) -> None:
    inject = datetime.fromtimestamp(PETSHOP_INJECT, UTC)
    assert case.record.injection_time == inject
    times = np.sort(case.metrics["time"].unique())
    assert len(times) == 15
    assert set(np.diff(times)) == {np.timedelta64(300, "s")}
    assert (case.metrics["time"] < inject).sum() == 12 * 3 * 5
    assert case.record.phases[1].end == inject + timedelta(seconds=900)
    assert "moved by -10756680 s" in case.record.versions["baseline"]


def test_metrics_have_our_names_and_units(case: Case) -> None:
    first = case.metrics.iloc[0]["time"]
    rows = case.metrics[(case.metrics["service"] == "PetSite") & (case.metrics["time"] == first)]
    found = {row.metric: (row.unit, row.value) for row in rows.itertuples()}
    assert {metric: unit for metric, (unit, _) in found.items()} == {
        "latency_p50": "s",
        "latency_p90": "s",
        "latency_mean": "s",
        "request_rate": "requests/s",
        "availability": "ratio",
    }
    assert 0.9 < found["availability"][1] < 1
    assert 1.8 < found["request_rate"][1] < 2.1, "600 requests in 300 s"


def test_an_empty_cell_is_no_sample(case: Case) -> None:
    quiet = case.metrics[case.metrics["service"] == "quiet"]
    assert len(quiet) == 2 * 5
    assert quiet["value"].notna().all()


def test_a_row_of_the_graph_calls_a_column(case: Case) -> None:
    edges = set(case.topology.astype(str).itertuples(index=False, name=None))
    assert edges == {("calls", "PetSite", PETSHOP_NODES[1]), ("calls", PETSHOP_NODES[1], "pet/Table")}


def test_a_scenario_without_baseline_is_skipped_and_named(tmp_path: Path) -> None:
    found = find(petshop(tmp_path / "set"), Overrides())
    assert len(found.cases) == 2
    assert found.skipped == ("temporal_traffic1: 1 issues skipped: no baseline, noissue/metrics.csv",)


def test_a_named_metric_of_the_root_cause_is_the_truth_at_metric_level(tmp_path: Path) -> None:
    root = petshop(tmp_path / "set", issues=1)
    file = root / "dataset/low_traffic/train/issue_0/target.json"
    target = json.loads(file.read_text())
    target["root_cause"]["metric"] = "latency"
    file.write_text(json.dumps(target))
    (case,) = imported_cases("petshop", root, tmp_path / "cases")
    assert set(case.record.injections[0].metrics) == {"latency_p50", "latency_p90", "latency_mean"}


def test_the_id_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    first = imported("petshop", petshop(tmp_path / "a"), tmp_path / "cases")
    shutil.move(tmp_path / "a" / "dataset" / "low_traffic", tmp_path / "elsewhere")
    again = imported("petshop", tmp_path / "elsewhere", tmp_path / "cases")
    assert sorted(again.kept) == sorted(first.imported)
    assert again.imported == ()
    assert all("low" not in case_id and "Search" not in case_id for case_id in first.imported)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("train/issue_0/target.json", "{}", "expected target.node, target.metric and root_cause.node"),
        ("train/issue_0/target.json", "[1", "not valid JSON"),
        ("train/issue_0/metrics.csv", "", "expected 3 header lines"),
        ("train/issue_0/metrics.csv", "a,PetSite\nb,latency\nc,p50\n", "no row of metrics"),
        ("train/issue_0/metrics.csv", "a,PetSite\nb,latency\nc,p50\n1,x\n", "no column of metrics"),
        ("train/issue_0/metrics.csv", "a,PetSite\nb,latency\nc,p50\nx,1\n,1\n", "no row has a time"),
        ("train/issue_0/metrics.csv", "a,PetSite\nb,latency\nc,p50\n2,1,7\n", "no row of metrics"),
        ("train/issue_0/metrics.csv", "a,PetSite\nb,latency\nc\n2,1\n", "three header lines of equal length"),
    ],
)
def test_a_broken_issue_is_named_and_the_others_are_imported(
    tmp_path: Path, file: str, content: str, expected: str
) -> None:
    root = petshop(tmp_path / "set")
    (root / "dataset" / "low_traffic" / file).write_text(content)
    result = imported("petshop", root, tmp_path / "cases")
    assert len(result.imported) == 1
    (line,) = result.failed
    assert line.startswith("low_traffic/train/issue_0: ")
    assert file in line
    assert expected in line


def test_a_directory_of_something_else_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected the scenarios of PetShop: .*graph\.csv"):
        find(tmp_path, Overrides())
