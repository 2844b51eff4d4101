from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from tasks.injection import Interval
from tasks.rca.run.builder import ViewFacts
from tasks.score.campaign import ScoreResult, score_campaign
from tasks.score.detection import detection_table
from tasks.score.store import PairStore
from tests.rca.views import score_params
from tests.score.cases import with_metrics
from tests.score.processes import InThisProcess
from tests.synthetic import T0, synthetic_case

TRUE_TIME = pd.Timestamp(T0) + pd.Timedelta(seconds=25)


def facts(time: pd.Timestamp | None) -> ViewFacts:
    return ViewFacts((), time.isoformat(), "") if time is not None else ViewFacts((), "", "no change was detected")


def test_errors_are_seconds_too_late(tmp_path: Path) -> None:
    records = [synthetic_case(tmp_path, f"c{i}", kind=None if i > 2 else "cpu-stress").record for i in range(5)]
    found = [TRUE_TIME + pd.Timedelta(seconds=3.5), TRUE_TIME - pd.Timedelta(seconds=2), None, TRUE_TIME, None]
    table = detection_table(records[::-1], {record.case_id: facts(t) for record, t in zip(records, found, strict=True)})
    assert table["case_id"].tolist() == [f"c{i}" for i in range(5)]
    assert table["error_s"].tolist()[:2] == [3.5, -2]
    assert table["error_s"].isna().tolist() == [False, False, True, True, True]
    assert table["detected"].tolist() == [True, True, False, True, False]
    assert table["true_time"].isna().tolist() == [False, False, False, True, True]
    assert str(table["true_time"].dtype) == str(table["detected_time"].dtype) == "datetime64[ns, UTC]"


def test_no_case_is_an_empty_table() -> None:
    assert detection_table([], {}).empty


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ScoreResult:
    """One fault that nobody could miss, one that nobody can see, and no fault."""
    cases = tmp_path_factory.mktemp("cases")
    with_metrics(synthetic_case(cases, "c0", strength=30, seed=0), "cpu_usage")
    with_metrics(synthetic_case(cases, "c1", strength=0, seed=1), "cpu_usage")
    synthetic_case(cases, "c2", kind=None, seed=2)
    params = score_params(methods=["nsigma", "random"], inject_time="detected")
    out = tmp_path_factory.mktemp("out")
    score_campaign(cases, params, out / "first", store=PairStore(out / "kept"), open_pool=InThisProcess)
    return score_campaign(cases, params, out / "scores", store=PairStore(out / "kept"), open_pool=InThisProcess)


def test_a_case_without_a_detected_change_is_missing_for_every_method(result: ScoreResult) -> None:
    unseen = result.rankings[result.rankings["case_id"] == "c1"]
    assert set(unseen["method"]) == {"nsigma", "random"}
    assert set(zip(unseen["status"], unseen["message"], strict=True)) == {("missing", "no change was detected")}
    seen = result.rankings[result.rankings["case_id"] == "c0"]
    assert set(seen["status"]) == {"ok"}


def test_it_counts_as_zero_at_both_levels(result: ScoreResult) -> None:
    table = result.scores.query("level == 'overall' and method == 'nsigma'").set_index(["granularity", "score"])
    for granularity in ("service", "metric"):
        assert table.loc[(granularity, "failure_rate"), "value"] == 0.5
        assert table.loc[(granularity, "ac5"), "value"] <= 0.5
        assert table.loc[(granularity, "ac5"), "cases"] == 2


def test_the_error_is_kept_and_summed_up(result: ScoreResult) -> None:
    table = result.detections.set_index("case_id")
    assert table["detected"].to_dict() == {"c0": True, "c1": False, "c2": False}
    assert abs(table.loc["c0", "error_s"]) < 10
    document = json.loads((result.out_dir / "metrics.json").read_text())["detection"]
    assert (document["cases"], document["detected"], document["false_alarms"]) == (2, 1, 0)
    assert document["median_absolute_error_s"] == abs(table.loc["c0", "error_s"])


def test_a_missing_view_is_kept_too(result: ScoreResult) -> None:
    first = result.out_dir.parent / "first"
    for file in first.iterdir():
        if file.name != "timings.json":
            assert file.read_bytes() == (result.out_dir / file.name).read_bytes(), file.name
    assert result.kept == 6


def test_the_true_time_is_that_of_the_first_injection_that_counts(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, "half").record
    (effective,) = case.injections
    early = Interval(start=effective.begin - timedelta(seconds=6), end=effective.begin)
    failed = effective.model_copy(update={"kind": "odd", "planned": early, "observed": early, "verdict": "ineffective"})
    half = case.model_copy(update={"injections": (failed, effective)})
    nothing = case.model_copy(update={"case_id": "nothing", "injections": (failed,)})
    found = {record.case_id: facts(pd.Timestamp(effective.begin)) for record in (half, nothing)}
    (row,) = detection_table([half, nothing], found).to_dict("records")
    assert (row["case_id"], row["fault"], row["error_s"]) == ("half", "cpu-stress+(odd)", 0)
    table = detection_table([half, nothing], found, include_ineffective=True)
    assert table["error_s"].tolist() == [6, 6]
    assert table["fault"].tolist() == ["cpu-stress+odd", "odd"]
