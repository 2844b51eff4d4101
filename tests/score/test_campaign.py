from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.errors import ParamsError
from tasks.score.accuracy import SCORES
from tasks.score.campaign import ScoreResult, score_campaign, validate_score_params
from tasks.score.errors import ScoreError
from tasks.score.files import TABLES
from tasks.score.results import SIMULATED
from tests.copies import copied
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import score_params
from tests.score.processes import InThisProcess, contents, scoring
from tests.synthetic import synthetic_case

FAULTS = [
    ("c0", "cpu-stress", "ray-replicas-0", "effective"),
    ("c1", "cpu-stress", "ray-replicas-1", "effective"),
    ("c2", "network-delay", "ray-head", "effective"),
    ("c3", "network-delay", "ray-head", "ineffective"),
    ("c4", None, "ray-head", "effective"),
]
METHODS = [
    "random",
    "nsigma",
    "baro",
    "e_diagnosis",
    "test_by_name",
    "test_all_tied",
    "test_raises",
    "test_finds_two",
    "test_no_fault",
]


@pytest.fixture(scope="module")
def cases_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    for seed, (case_id, kind, target, verdict) in enumerate(FAULTS):
        synthetic_case(directory, case_id, kind=kind, target=target, verdict=verdict, seed=seed, strength=20)
    return directory


@pytest.fixture(scope="module")
def result(cases_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreResult:
    return score_campaign(cases_dir, score_params(methods=METHODS), tmp_path_factory.mktemp("out"), workers=3)


def value(result: ScoreResult, method: str, score: str, level: str = "overall", group: str = "all") -> pd.Series:
    table = result.scores
    found = table[
        (table["method"] == method) & (table["score"] == score) & (table["level"] == level) & (table["group"] == group)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_a_method_by_name_has_the_scores_one_can_work_out(result: ScoreResult) -> None:
    """By name: nginx-proxy, ray-head, ray-replicas-0, -1, -2; the truth is at 3, 4 and 2."""
    expected = {
        "ac1": 0,
        "ac3": 2 / 3,
        "ac5": 1,
        "avg5": (3 / 5 + 2 / 5 + 4 / 5) / 3,
        "mrr": (1 / 3 + 1 / 4 + 1 / 2) / 3,
        "failure_rate": 0,
        "tie_rate": 0,
    }
    for score, wanted in expected.items():
        row = value(result, "test_by_name", score)
        assert row["value"] == pytest.approx(wanted)
        assert row["cases"] == 3
    row = value(result, "test_by_name", "avg5", "fault", "network-delay")
    assert (row["value"], row["cases"]) == (pytest.approx(4 / 5), 1)
    assert np.isnan(row["low"])
    assert value(result, "test_by_name", "mrr", "target", "ray-replicas-1")["value"] == pytest.approx(1 / 4)


def test_chance_and_lift(result: ScoreResult) -> None:
    row = value(result, "test_by_name", "avg5")
    assert row["chance"] == pytest.approx(0.6)
    assert row["lift"] == pytest.approx(row["value"] / 0.6)
    assert np.isnan(value(result, "test_by_name", "tie_rate")["chance"])


def test_references_stand_beside_every_method_and_are_no_methods(result: ScoreResult) -> None:
    """Faults on two replicas and the head: four of the five services have a role that was a target."""
    row = value(result, "nsigma", "avg5")
    assert row["role_prior"] == pytest.approx((1 / 4 + 2 / 4 + 3 / 4 + 2) / 5)
    assert set(result.scores["method"]) == {*METHODS, ""}
    for table in (result.comparisons[["method_a", "method_b"]], result.average_ranks[["method"]]):
        assert set(table.to_numpy().ravel()) == set(METHODS)
    for reference in ("chance", "role_prior", "chance_per_column"):
        scored = result.scores[result.scores["score"].isin(["ac1", "avg5"]) & (result.scores["level"] == "overall")]
        assert scored.groupby("score")[reference].nunique().tolist() == [1, 1]


def test_what_a_list_leaves_out_is_scored_both_ways(cases_dir: Path, tmp_path: Path) -> None:
    params = score_params(methods=["test_first_by_name", "test_by_name", "test_raises"])
    result = score_campaign(cases_dir, params, tmp_path, open_pool=InThisProcess)
    short, whole, failed = (value(result, method, "avg5") for method in params.methods)
    assert (short["value"], short["low"]) == (0, 0)
    assert short["tail"] == pytest.approx((1 / 4 + 2 / 4 + 3 / 4 + 1) / 5)
    assert (short["tail_low"], short["tail_high"]) == pytest.approx((0.5, 0.5))
    assert (whole["tail"], whole["tail_low"], whole["tail_high"]) == (whole["value"], whole["low"], whole["high"])
    assert (failed["value"], failed["tail"]) == (0, 0)
    assert np.isnan(value(result, "test_by_name", "tie_rate")["tail"])
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["methods"]["test_first_by_name"]["tail"]["avg5"] == pytest.approx(short["tail"])
    assert result.notes[0] == "beyond the 24 of arXiv 2603.02057: test_first_by_name"


def test_methods_that_look_find_a_strong_fault(result: ScoreResult) -> None:
    for method in ("nsigma", "baro", "e_diagnosis"):
        row = value(result, method, "ac1")
        assert (row["value"], row["low"], row["high"]) == (1, 1, 1)


def test_a_failure_scores_zero_and_is_shown(result: ScoreResult) -> None:
    for score in ("ac1", "ac5", "avg5", "mrr"):
        assert value(result, "test_raises", score)["value"] == 0
    assert value(result, "test_raises", "failure_rate")["value"] == 1
    assert result.failures == 5
    failed = result.rankings[result.rankings["method"] == "test_raises"]
    assert (failed["status"] == "error").all()
    assert failed["service"].isna().all()
    assert len(failed) == 5
    assert any("failed: test_raises on 5 of 5 cases: error: ZeroDivisionError" in note for note in result.notes)


def test_ties_are_counted(result: ScoreResult) -> None:
    assert value(result, "test_all_tied", "tie_rate")["value"] == 1
    tied = result.rankings[result.rankings["method"] == "test_all_tied"]
    assert tied["tied"].all()
    assert tied[tied["rank"] == 1]["service"].nunique() > 1


def test_family_is_the_mean_of_its_methods_but_yardsticks(result: ScoreResult) -> None:
    own = np.mean([value(result, method, "avg5")["value"] for method in METHODS if method != "random"])
    assert value(result, "", "avg5", "family", "metric")["value"] == pytest.approx(own)


def test_cases_without_truth_are_ranked_but_not_scored(result: ScoreResult) -> None:
    assert set(result.rankings["case_id"]) == {case_id for case_id, *_ in FAULTS}
    excluded = result.rankings.groupby("case_id")["excluded"].first().to_dict()
    assert excluded == {"c0": "", "c1": "", "c2": "", "c3": "no effective injection", "c4": "fault-free"}
    assert "not scored: c4: fault-free" in result.notes
    assert "not counted: c3: network-delay on ray-head was not effective (planted)" in result.notes


def test_ineffective_injections_count_if_asked_for(cases_dir: Path, tmp_path: Path) -> None:
    params = score_params(methods=["test_by_name"], include_ineffective=True)
    result = score_campaign(cases_dir, params, tmp_path, open_pool=InThisProcess)
    assert value(result, "test_by_name", "ac1")["cases"] == 4


def test_misattribution_counts_the_first_suspect(result: ScoreResult) -> None:
    table = result.misattribution
    by_name = table[table["method"] == "test_by_name"]
    assert by_name["predicted"].unique().tolist() == ["nginx-proxy"]
    assert by_name["cases"].sum() == 3
    assert table[table["method"] == "test_raises"]["predicted"].unique().tolist() == ["(nothing)"]


def test_rankings_name_the_truth(result: ScoreResult) -> None:
    rows = result.rankings.query("method == 'nsigma' and case_id == 'c2'")
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
    assert rows["correct"].tolist() == [True, False, False, False, False]
    assert rows.iloc[0][["service", "truth"]].tolist() == ["ray-head", "ray-head"]
    assert rows["metric"].notna().all()


def test_metrics_json_is_what_dvc_shows(result: ScoreResult) -> None:
    document = json.loads((result.out_dir / "metrics.json").read_text())
    assert document["cases"] == {
        **{"scored": 3, "fault_free": 1, "ineffective": 1, "scored_at_metric_level": 0},
        "classes": {"absorbed": 1, "attributed": 2, "ineffective": 1, "negative": 1},
        "strata": {"I": 3},
    }
    assert document["chance"]["avg5"] == pytest.approx(0.6)
    assert document["role_prior"]["avg5"] == pytest.approx(0.7)
    assert document["chance_per_column"].keys() == document["chance"].keys()
    assert document["methods"].keys() == set(METHODS)
    by_name = document["methods"]["test_by_name"]
    assert by_name["ac3"] == pytest.approx(2 / 3)
    assert by_name["by_fault"]["network-delay"]["avg5"] == pytest.approx(0.8)
    assert by_name["strata"]["macro"] == by_name["strata"]["I"] == {name: by_name[name] for name in SCORES}
    assert "sets" not in by_name, "it does not say how many roots there are"
    assert document["methods"]["test_raises"]["failures"] == 5


def test_the_files_hold_the_tables(result: ScoreResult) -> None:
    names = {file.name for file in result.out_dir.iterdir()}
    tables = [
        *("rankings", "metric_rankings", "scores", "misattribution", "comparisons", "average_ranks", "detections"),
        *("findings", "evidence", "coverage", "cases", "sets", "set_scores", "kinds", "negatives"),
    ]
    assert names == {*(f"{table}.parquet" for table in tables), "metrics.json", "timings.json"}
    for table in tables:
        pd.testing.assert_frame_equal(pd.read_parquet(result.out_dir / f"{table}.parquet"), getattr(result, table))


def test_findings_and_their_evidence_are_tables(result: ScoreResult) -> None:
    findings = result.findings
    assert set(findings["method"]) == {"test_finds_two", "test_no_fault"}, "the others do not say"
    two = findings[findings["method"] == "test_finds_two"].set_index(["case_id", "finding"])
    assert len(two) == 2 * len(FAULTS)
    assert two.loc[("c0", 1), ["role", "kind", "significance"]].to_list() == ["root", "cpu-stress", 0.01]
    assert two.loc[("c0", 2), ["role", "kind", "onset_s"]].to_list() == ["victim", "unknown", 7.0]
    assert np.isnan(two.loc[("c0", 1), "onset_s"])
    none = findings[findings["method"] == "test_no_fault"]
    assert none["case_id"].to_list() == [case for case, *_ in FAULTS]
    assert none[["finding", "role", "service", "kind", "significance", "onset_s"]].isna().all(axis=None)
    evidence = result.evidence
    assert evidence[["method", "finding", "signal"]].drop_duplicates().values.tolist() == [["test_finds_two", 1, "cpu"]]
    assert (evidence["before"] == 0.1).all()
    assert (evidence["during"] == 4).all()
    assert evidence["siblings"].isna().all()
    said = result.coverage[result.coverage["case_id"] == "c0"]
    assert said[["evidence", "seen"]].values.tolist() == [
        ["CPU", True],
        ["spans of calls", True],
        ["GPU clocks", False],
    ]


def test_seconds_and_memory_are_kept_per_pair_and_summed_up_per_method(result: ScoreResult) -> None:
    timings = json.loads((result.out_dir / "timings.json").read_text())
    assert len(timings["pairs"]) == len(FAULTS) * len(METHODS)
    of_method = [pair for pair in timings["pairs"] if pair["method"] == "nsigma"]
    costs = timings["method_costs"]["nsigma"]
    assert costs["cases"] == len(FAULTS)
    assert costs["wall_s_mean"] == pytest.approx(np.mean([pair["wall_s"] for pair in of_method]), abs=1e-5)
    assert costs["peak_mb_max"] == pytest.approx(max(pair["peak_mb"] for pair in of_method), abs=0.1)
    assert 0 <= costs["grown_mb_max"] < costs["peak_mb_max"]


def test_table_for_people(result: ScoreResult) -> None:
    table = result.score_table()
    assert table.columns[:4] == ("method", "AC@1 (3 cases)", "Avg@5", "Avg@5 tail")
    assert table.columns[4:] == ("failed", "s/case", "cpu-stress (2)", "network-delay (1)")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["nsigma"][:4] == ("1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]", "1.00", "0")
    assert rows["nsigma"][5:] == ("1.00 / 1.00", "1.00 / 1.00")
    assert rows["test_raises"][2:4] == ("0.00", "3")
    assert rows["(chance)"] == ("0.20", "0.60", "0.60", "", "", "0.20 / 0.60", "0.20 / 0.60")
    assert rows["(role prior)"][:2] == ("0.25", "0.70")
    assert "(chance per column)" in rows
    assert "what it leaves out is not found" in table.notes[0]
    assert table.text().splitlines()[0].startswith("method")
    avg5 = [float(row[2].split()[0]) for row in table.rows]
    assert avg5 == sorted(avg5, reverse=True)
    assert next(reversed(rows)) == "test_raises"


def test_same_inputs_same_bytes_in_another_process(result: ScoreResult, cases_dir: Path, tmp_path: Path) -> None:
    """Other than the first, it has one worker, and other hashes."""
    script = (
        "from tests.score.test_campaign import METHODS, score_params\n"
        "score_campaign(Path(sys.argv[1]), score_params(methods=METHODS), Path(sys.argv[2]), workers=1)\n"
    )
    process = scoring(script, cases_dir, tmp_path / "out", hash_seed="1")
    process.communicate()
    assert process.returncode == 0
    assert len(contents(tmp_path / "out")) == len(TABLES) + 1
    assert contents(tmp_path / "out") == contents(result.out_dir)


def test_other_seed_other_random_ranking(result: ScoreResult, cases_dir: Path, tmp_path: Path) -> None:
    params = score_params(methods=["random"], seed=1)
    other = score_campaign(cases_dir, params, tmp_path, open_pool=InThisProcess).rankings
    first = result.rankings.query("method == 'random'")
    assert other["case_id"].tolist() == first["case_id"].tolist()
    assert other["service"].tolist() != first["service"].tolist()


def test_a_killed_run_leaves_the_old_results_whole(result: ScoreResult, cases_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(result.out_dir, tmp_path / "out")
    script = (
        "from tests.score.test_campaign import score_params\n"
        "score_campaign(Path(sys.argv[1]), score_params(methods=['baro', 'test_sleeps']), Path(sys.argv[2]),\n"
        "               progress=lambda *args: print(*args, flush=True), workers=2)\n"
    )
    process = scoring(script, cases_dir, tmp_path / "out")
    assert process.stdout is not None
    assert re.fullmatch(r"1 10 baro on c\d: ok\n", process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {file.name: file.read_bytes() for file in result.out_dir.iterdir()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_progress_counts_every_pair(cases_dir: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    params = score_params(methods=["nsigma"])
    score_campaign(cases_dir, params, tmp_path, progress=lambda *args: seen.append(args), open_pool=InThisProcess)
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5]
    assert {total for _, total, _ in seen} == {5}


def test_no_case_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="no finished case to score"):
        score_campaign(tmp_path, score_params(), tmp_path / "out")


def test_simulated_cases_are_called_so_and_never_scored_beside_recorded_ones(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "recorded", "c0")
    synthetic_case(tmp_path / "both", "c1")
    stack = case.record.stack.model_copy(update={"simulated": True})
    computed = case.record.model_copy(update={"stack": stack})
    for folder in ("simulated", "both"):
        copied(case, computed, cases_dir=tmp_path / folder)
    params = score_params(methods=["nsigma"])
    for folder, said in (("recorded", False), ("simulated", True)):
        found = score_campaign(tmp_path / folder, params, tmp_path / f"{folder}-scores", open_pool=InThisProcess)
        assert (SIMULATED in found.score_table().notes) == said
    with pytest.raises(ScoreError, match="1 cases are simulated and 1 recorded"):
        score_campaign(tmp_path / "both", params, tmp_path / "out", open_pool=InThisProcess)


def test_no_effective_case_is_a_table_that_says_so(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", kind=None)
    params = score_params(methods=["nsigma"])
    result = score_campaign(tmp_path / "cases", params, tmp_path / "out", open_pool=InThisProcess)
    assert result.score_table().rows == (("(no case to score)",),)
    assert result.score_table().notes == ("not scored: case-0001: fault-free",)
    assert "no case to score" in result.score_table().text()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]["scored"] == 0
    assert pd.read_parquet(tmp_path / "out" / "scores.parquet").empty


def test_wrong_parameters_are_refused_before_any_work(cases_dir: Path, tmp_path: Path) -> None:
    params = score_params(methods=["nsigma", "barro"])
    with pytest.raises(ParamsError) as error:
        score_campaign(cases_dir, params, tmp_path / "out")
    assert error.value.problems == tuple(validate_score_params(params))
    assert error.value.problems[0].startswith("score.methods[1]: unknown method 'barro'; did you mean 'baro'?")
    assert not (tmp_path / "out").exists()
