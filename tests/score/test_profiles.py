"""A method may be scored under a profile of its own, beside itself under another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.case import read_case
from tasks.errors import ParamsError
from tasks.metrics import METRICS
from tasks.params import ScoreParams
from tasks.rca.registry import get_method, validate_method_parameters, validate_methods
from tasks.rca.run.build_view import build_view
from tasks.rca.run.pair import run_pair
from tasks.score.campaign import ScoreResult, rank_campaign, score_campaign
from tasks.score.store import PairStore
from tests.copies import copied
from tests.rca.views import score_params
from tests.score.processes import InThisProcess
from tests.synthetic import synthetic_case

METHODS = ["nsigma", "nsigma@llm", "baro@paper", "random@llm"]
HIDDEN = "requests_waiting"
"""A metric that only ``llm`` shows."""


@pytest.fixture(scope="module")
def cases_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two of the three cases only a metric that ``paper`` hides names the fault."""
    folder = tmp_path_factory.mktemp("cases")
    for seed, metrics in enumerate([(HIDDEN,), (HIDDEN,), ("cpu_usage", HIDDEN)]):
        case = synthetic_case(tmp_path_factory.mktemp("plain"), f"c{seed}", seed=seed)
        injections = tuple(each.model_copy(update={"metrics": metrics}) for each in case.record.injections)
        copied(case, case.record.model_copy(update={"injections": injections}), cases_dir=folder)
    return folder


def params_of(**changes: object) -> ScoreParams:
    return score_params(**{"methods": METHODS, "profile": "paper", **changes})


@pytest.fixture(scope="module")
def result(cases_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreResult:
    return score_campaign(cases_dir, params_of(), tmp_path_factory.mktemp("out"), open_pool=InThisProcess)


def test_each_entry_ranks_what_its_profile_shows(result: ScoreResult, cases_dir: Path) -> None:
    assert result.rankings["method"].drop_duplicates().tolist() == METHODS
    for label, profile in (("nsigma", "paper"), ("nsigma@llm", "llm")):
        view = build_view(read_case(cases_dir / "c1"), params_of(profile=profile))
        expected = run_pair(get_method("nsigma"), view, seed=42).suspects
        rows = result.rankings.query(f"method == '{label}' and case_id == 'c1'")
        assert rows["score"].tolist() == [suspect.score for suspect in expected]
    metrics = result.metric_rankings.groupby("method")["metric"].unique()
    assert set(metrics["nsigma"]) <= {name for name, metric in METRICS.items() if metric.profile == "paper"}
    assert HIDDEN in metrics["nsigma@llm"]


def test_both_come_out_in_the_paired_tests(result: ScoreResult) -> None:
    rows = result.comparisons.query("method_a == 'nsigma' and method_b == 'nsigma@llm'")
    assert sorted(rows["score"]) == ["ac1", "avg5", "mrr"]
    assert set(rows["cases"]) == {3}
    assert result.average_ranks["method"].nunique() == len(METHODS)


def test_at_metric_level_each_has_its_own_cases_and_chance(result: ScoreResult) -> None:
    rows = result.scores.query("granularity == 'metric' and level == 'overall' and score == 'ac1'").set_index("method")
    assert rows.loc["nsigma", "cases"] == rows.loc["baro@paper", "cases"] == 1
    assert rows.loc["nsigma@llm", "cases"] == 3
    assert rows.loc["nsigma", "chance"] > 0
    assert rows.loc["nsigma", "chance"] != rows.loc["nsigma@llm", "chance"]
    assert rows["value"].notna().all()
    family = result.scores.query("granularity == 'metric' and level == 'family' and score == 'ac1'")
    assert family["value"].between(0, 1).all()
    assert family["cases"].tolist() == [3]


def test_the_labels_are_everywhere(result: ScoreResult) -> None:
    document = json.loads((result.out_dir / "metrics.json").read_text())
    assert list(document["methods"]) == METHODS
    assert list(json.loads((result.out_dir / "timings.json").read_text())["method_costs"]) == METHODS
    assert {row[0] for row in result.score_table().rows} >= set(METHODS)


def test_what_was_kept_is_found_however_the_entry_is_written(cases_dir: Path, tmp_path: Path) -> None:
    store = PairStore(tmp_path / "pairs")
    assert rank_campaign(cases_dir, params_of(methods=["nsigma@llm"]), store, workers=1) == 3
    again = params_of(methods=["baro@paper", "nsigma"], profile="llm")
    assert score_campaign(cases_dir, again, tmp_path / "out", store=store, open_pool=InThisProcess).kept == 3


def test_parameters_for_a_name_or_for_one_entry(cases_dir: Path, tmp_path: Path) -> None:
    given = {"nsigma": {"direction": "up"}, "nsigma@llm": {"direction": "both"}}
    params = params_of(methods=["nsigma", "nsigma@llm"], method_parameters=given)
    found = score_campaign(cases_dir, params, tmp_path, open_pool=InThisProcess).parameters
    assert [found[label]["direction"] for label in ("nsigma", "nsigma@llm")] == ["up", "both"]


def test_a_detected_inject_time_is_detected_under_each_profile(cases_dir: Path, tmp_path: Path) -> None:
    params = params_of(methods=["nsigma@llm", "baro@llm"], inject_time="detected")
    result = score_campaign(cases_dir, params, tmp_path, open_pool=InThisProcess)
    assert len(result.detections) == 3
    assert len(result.truths) == 3


@pytest.mark.parametrize(
    ("methods", "problem"),
    [
        (["nsigma", "nsigma@paper"], "score.methods[1]: 'nsigma@paper' is 'nsigma' again: score.profile is paper"),
        (
            ["nsigma@paper", "baro", "nsigma"],
            "score.methods[2]: 'nsigma' is 'nsigma@paper' again: score.profile is paper",
        ),
        (["nsigma@llm", "nsigma@llm"], "score.methods[1]: 'nsigma@llm' is listed twice"),
        (
            ["baro@lm"],
            "score.methods[0]: 'baro@lm': unknown profile 'lm'; did you mean 'llm'? allowed: llm, paper",
        ),
        (["baro@"], "score.methods[0]: 'baro@': unknown profile ''; allowed: llm, paper"),
    ],
)
def test_an_entry_that_is_wrong_is_named(methods: list[str], problem: str, cases_dir: Path, tmp_path: Path) -> None:
    assert validate_methods(methods, "paper") == [problem]
    with pytest.raises(ParamsError) as error:
        score_campaign(cases_dir, params_of(methods=methods), tmp_path)
    assert error.value.problems == (problem,)


def test_unknown_methods_and_parameters_of_entries_are_named() -> None:
    assert validate_methods(["barro@llm"])[0].startswith(
        "score.methods[0]: unknown method 'barro'; did you mean 'baro'?"
    )
    assert validate_methods(["nsigma", "nsigma@llm"], "paper") == []
    problems = validate_method_parameters({"nsigma@lm": {}, "nsigma@llm": {"direction": "down"}, "barro@llm": {}})
    assert [problem.split(":")[0] for problem in problems] == [
        "score.method_parameters.nsigma@lm",
        "score.method_parameters.nsigma@llm.direction",
        "score.method_parameters.barro@llm",
    ]
