import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.case import CaseRecord
from tasks.report.scoreboard import Estimate, Scoreboard, read_scoreboard
from tasks.report.sections.comparison import comparisons
from tasks.report.sections.costs import failures, method_costs
from tasks.report.sections.detection import detections
from tasks.score.errors import ScoreError
from tasks.score.files import RANKING_TABLE, SCORE_TABLE, TIMINGS_FILE
from tests.report.scores import as_an_older_stage_wrote, fails, ranked, truth_at, write_scores
from tests.score.cases import with_metrics
from tests.synthetic import synthetic_case


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CPU faults, one memory fault, one fault-free case; methods that rank the truth first, third, or fail."""
    root = tmp_path_factory.mktemp("campaign")
    synthetic_case(root / "cases", "cpu-0", kind="cpu-stress", target="ray-replicas-0")
    synthetic_case(root / "cases", "cpu-1", kind="cpu-stress", target="ray-replicas-1")
    synthetic_case(root / "cases", "memory-2", kind="memory-stress", target="ray-replicas-2")
    synthetic_case(root / "cases", "quiet", kind=None)
    methods = {"broken": fails("no luck"), "good": truth_at(1), "fair": truth_at(3)}
    write_scores(root / "cases", root / "scores", methods)
    return root


@pytest.fixture(scope="module")
def board(made_once: Path) -> Scoreboard:
    found = read_scoreboard(made_once / "scores")
    assert found is not None
    return found


@pytest.fixture
def campaign(made_once: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(made_once / "scores", tmp_path / "scores")
    return tmp_path


def test_groups_are_overall_then_faults_then_targets_then_strata(board: Scoreboard) -> None:
    assert [(group.level, group.title) for group in board.services.groups] == [
        ("overall", "all scored cases"),
        ("fault", "cpu-stress"),
        ("fault", "memory-stress"),
        ("target", "ray-replicas-0"),
        ("target", "ray-replicas-1"),
        ("target", "ray-replicas-2"),
        ("stratum", "I"),
        ("macro", "mean of strata"),
    ]
    assert [[row.name for row in group.rows] for group in board.services.groups] == [["good", "fair", "broken"]] * 8
    assert board.methods == board.services.methods == ("good", "fair", "broken")


def test_scores_and_failures(board: Scoreboard) -> None:
    overall = board.services.overall
    assert overall is not None
    good, fair, broken = overall.rows
    assert [row.cases for row in (good, fair, broken)] == [3, 3, 3]
    assert [row.estimates["ac1"].value for row in (good, fair, broken)] == [1.0, 0.0, 0.0]
    assert fair.estimates["avg5"].value == pytest.approx(0.6)
    assert fair.estimates["ac1"].chance == pytest.approx(0.2)
    assert [row.failures for row in (good, fair, broken)] == [0, 0, 3]
    assert [row.place for row in (good, fair, broken)] == [1, 2, 3]
    assert overall.cases == 3
    assert [reference.label for reference in overall.references] == ["chance", "role prior", "chance per column"]
    assert [reference.expected["ac1"] for reference in overall.references[:2]] == pytest.approx([0.2, 1 / 3])
    named = [getattr(entry, "name", "") or getattr(entry, "label", "") for entry in overall.entries]
    assert [name for name in named if name != "chance per column"] == ["good", "role prior", "fair", "chance", "broken"]
    assert good.estimates["avg5"].beats_references
    assert not fair.estimates["avg5"].beats_references
    assert (good.estimates["avg5"].tail, broken.estimates["avg5"].tail) == (1, 0)


def test_a_score_between_chance_and_the_role_prior_beats_chance_alone() -> None:
    between = Estimate(0.75, 0.7, 0.8, chance=0.6, lift=1.25, role_prior=0.8, chance_per_column=0.5)
    assert not between.beats_references
    assert replace(between, low=0.81).beats_references
    assert replace(between, role_prior=None, chance_per_column=None).beats_references


def test_equal_methods_share_a_place(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    ranks = {"third": truth_at(3), "b": truth_at(2), "a": truth_at(2), "first": truth_at(1)}
    write_scores(tmp_path / "cases", tmp_path / "scores", ranks)
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.services.overall is not None
    assert [(row.name, row.place) for row in board.services.overall.rows] == [
        ("first", 1),
        ("b", 2),
        ("a", 2),
        ("third", 4),
    ]


def test_families_are_one_group(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    methods = {"a": truth_at(3), "b": truth_at(1)}
    write_scores(tmp_path / "cases", tmp_path / "scores", methods, families={"b": "trace"})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    (families,) = board.services.at("family")
    assert [row.name for row in families.rows] == ["trace", "metric"]
    assert board.services.overall is not None
    assert {row.name: row.family for row in board.services.overall.rows} == {"a": "metric", "b": "trace"}


def test_methods_beyond_the_24_are_marked_and_have_means_of_their_own(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    methods = {"a": truth_at(1), "b": truth_at(3), "c": truth_at(2)}
    write_scores(tmp_path / "cases", tmp_path / "scores", methods, beyond={"b"})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.services.overall is not None
    assert [(row.name, row.family, row.beyond) for row in board.services.overall.rows] == [
        ("a", "metric", False),
        ("c", "metric", False),
        ("b", "metric", True),
    ]
    (families,) = board.services.at("family")
    assert [(row.name, row.estimates["mrr"].value) for row in families.rows] == [
        ("metric", pytest.approx((1 + 1 / 2) / 2)),
        ("metric, beyond", pytest.approx(1 / 3)),
    ]
    as_an_older_stage_wrote(tmp_path / "scores")
    older = read_scoreboard(tmp_path / "scores")
    assert older is not None
    assert older.services.overall is not None
    assert not any(row.beyond for row in older.services.overall.rows)


def test_metric_level(tmp_path: Path) -> None:
    columns = [("ray-replicas-1", "cpu_usage"), ("nginx-proxy", "latency_p50"), ("ray-replicas-1", "latency_p50")]
    with_metrics(synthetic_case(tmp_path / "cases", "known"), "latency_p50")
    synthetic_case(tmp_path / "cases", "unknown", kind="odd")
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    names = {"names": lambda record: ranked(["ray-replicas-1", "nginx-proxy"], columns), "other": truth_at(1)}
    write_scores(tmp_path / "cases", tmp_path / "scores", names)
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.metrics.overall is not None
    (row,) = board.metrics.overall.rows
    assert (row.name, row.cases) == ("names", 1)
    assert row.estimates["mrr"].value == pytest.approx(1 / 3)
    assert row.estimates["ac1"].chance == pytest.approx(1 / 60)
    assert [(u.reason, u.cases) for u in board.unscored_metrics] == [("the metrics of odd are not known", ("unknown",))]
    by_method = {result.method: result for result in board.results["known"]}
    assert (by_method["names"].metric_rank, by_method["other"].metric_rank) == (3, None)
    assert [suspect.metric for suspect in by_method["names"].suspects] == ["cpu_usage", "latency_p50"]


def test_costs_and_failures(board: Scoreboard) -> None:
    costs = method_costs(board.files.costs, board.methods)
    assert costs is not None
    cost = costs["good"]
    assert (cost.cases, cost.seconds_mean, cost.seconds_max, cost.peak_mb_mean) == (4, 0.5, 0.5, 200)
    (failure,) = failures(board.files.rankings, board.methods)
    assert (failure.method, failure.status, failure.message) == ("broken", "error", "no luck")
    assert failure.cases == ("cpu-0", "cpu-1", "memory-2", "quiet")


def test_files_of_an_older_score_stage(campaign: Path, board: Scoreboard) -> None:
    as_an_older_stage_wrote(campaign / "scores")
    old = read_scoreboard(campaign / "scores")
    assert old is not None
    assert [[row.name for row in group.rows] for group in old.services.groups] == [["good", "fair", "broken"]] * 6
    assert old.services.overall is not None
    assert [reference.label for reference in old.services.overall.references] == ["chance"]
    assert old.services.overall.rows[0].estimates["avg5"].tail is None
    assert old.results == board.results
    assert comparisons(old.files.average_ranks, old.files.comparisons) is None
    assert detections(old.files.detections) is None
    assert method_costs(old.files.costs, old.methods) is None
    assert old.metrics.groups == ()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_truth_rank(tmp_path: Path, rank: int) -> None:
    synthetic_case(tmp_path / "cases", "one")
    write_scores(tmp_path / "cases", tmp_path / "scores", {"method": truth_at(rank)})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    (result,) = board.results["one"]
    assert result.truth_ranks == (rank,)
    assert [suspect.rank for suspect in result.suspects] == [1, 2, 3, 4, 5]
    assert result.suspects[rank - 1].truth


def test_truth_that_is_not_ranked_has_no_rank(tmp_path: Path) -> None:
    def blind(record: CaseRecord) -> list[str]:
        return [name for name in record.service_names if name != record.injections[0].target]

    synthetic_case(tmp_path / "cases", "one")
    write_scores(tmp_path / "cases", tmp_path / "scores", {"blind": blind})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.results["one"][0].truth_ranks == ()
    assert board.results["one"][0].ranked


def test_failure_keeps_its_message(board: Scoreboard) -> None:
    broken = board.results["cpu-0"][2]
    assert (broken.method, broken.status, broken.message, broken.ranked) == ("broken", "error", "no luck", False)
    assert broken.suspects == ()


def test_fault_free_case_is_excluded_with_its_reason(board: Scoreboard) -> None:
    assert board.results["quiet"][0].excluded == "fault-free"


def test_scoring_has_not_run(tmp_path: Path) -> None:
    assert read_scoreboard(tmp_path) is None


def test_costs_are_optional(campaign: Path) -> None:
    (campaign / "scores" / TIMINGS_FILE).unlink()
    board = read_scoreboard(campaign / "scores")
    assert board is not None
    assert method_costs(board.files.costs, board.methods) is None


def test_unusable_files_are_named(campaign: Path) -> None:
    file = campaign / "scores" / SCORE_TABLE.file
    pd.read_parquet(file).drop(columns="chance").to_parquet(file)
    with pytest.raises(ScoreError, match=r"scores\.parquet: has no column chance"):
        read_scoreboard(campaign / "scores")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(ScoreError, match=r"scores\.parquet: cannot be read"):
        read_scoreboard(campaign / "scores")
    file.unlink()
    with pytest.raises(ScoreError, match=r"scores\.parquet: cannot be read"):
        read_scoreboard(campaign / "scores")


def test_unreadable_timings_are_named(campaign: Path) -> None:
    (campaign / "scores" / TIMINGS_FILE).write_text('{"method_costs": {"good": {}}}')
    with pytest.raises(ScoreError, match=r"timings\.json"):
        read_scoreboard(campaign / "scores")


def test_only_fault_free_cases_give_no_group(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1)})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.services.groups == ()
    assert comparisons(board.files.average_ranks, board.files.comparisons) == ()
    assert board.methods == ("good",)
    assert (tmp_path / "scores" / RANKING_TABLE.file).exists()
