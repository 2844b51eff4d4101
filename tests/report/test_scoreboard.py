import shutil
from pathlib import Path

import pandas as pd
import pytest

from tasks.case import CaseRecord
from tasks.report.scoreboard import RANKINGS_FILE, SCORES_FILE, TIMINGS_FILE, Scoreboard, ScoresError, read_scoreboard
from tests.report.scores import fails, truth_at, write_scores
from tests.synthetic import synthetic_case


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CPU faults, one memory fault, one fault-free case; methods that rank the truth first, third, or fail."""
    root = tmp_path_factory.mktemp("campaign")
    synthetic_case(root / "cases", "cpu-0", kind="cpu-stress", target="ray-replicas-0")
    synthetic_case(root / "cases", "cpu-1", kind="cpu-stress", target="ray-replicas-1")
    synthetic_case(root / "cases", "memory-2", kind="memory-stress", target="ray-replicas-2")
    synthetic_case(root / "cases", "quiet", kind=None)
    methods = {"good": truth_at(1), "fair": truth_at(3), "broken": fails("no luck")}
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


def test_groups_are_overall_then_faults_then_targets(board: Scoreboard) -> None:
    assert [(group.level, group.title) for group in board.groups] == [
        ("overall", "all scored cases"),
        ("fault", "cpu-stress"),
        ("fault", "memory-stress"),
        ("target", "ray-replicas-0"),
        ("target", "ray-replicas-1"),
        ("target", "ray-replicas-2"),
    ]
    assert [[row.name for row in group.rows] for group in board.groups] == [["good", "fair", "broken"]] * 6


def test_scores_failures_and_seconds(board: Scoreboard) -> None:
    good, fair, broken = board.groups[0].rows
    assert [row.cases for row in (good, fair, broken)] == [3, 3, 3]
    assert [row.estimates["ac1"].value for row in (good, fair, broken)] == [1.0, 0.0, 0.0]
    assert fair.estimates["avg5"].value == pytest.approx(0.6)
    assert fair.estimates["ac1"].chance == pytest.approx(0.2)
    assert [row.failures for row in (good, fair, broken)] == [0, 0, 3]
    assert [row.seconds for row in (good, fair, broken)] == [0.5, 0.5, 0.5]


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


def test_misattribution(board: Scoreboard) -> None:
    good, fair, broken = board.misattributions
    assert [truth for truth, _ in good.rows] == ["ray-replicas-0", "ray-replicas-1", "ray-replicas-2"]
    assert all(cell.right == (cell.count > 0) for _, cells in good.rows for cell in cells)
    assert fair.predicted[0] == "nginx-proxy"
    assert [cells[0].count for _, cells in fair.rows] == [1, 1, 1]
    assert not any(cells[0].right for _, cells in fair.rows)
    assert broken.predicted[-1] == "(nothing)"
    assert [cells[-1].share for _, cells in broken.rows] == [1.0, 1.0, 1.0]


def test_scoring_has_not_run(tmp_path: Path) -> None:
    assert read_scoreboard(tmp_path) is None


def test_seconds_are_optional(campaign: Path) -> None:
    (campaign / "scores" / TIMINGS_FILE).unlink()
    board = read_scoreboard(campaign / "scores")
    assert board is not None
    assert board.groups[0].rows[0].seconds is None


def test_unusable_files_are_named(campaign: Path) -> None:
    file = campaign / "scores" / SCORES_FILE
    pd.read_parquet(file).drop(columns="chance").to_parquet(file)
    with pytest.raises(ScoresError, match=r"scores\.parquet: has no column chance"):
        read_scoreboard(campaign / "scores")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(ScoresError, match=r"scores\.parquet: cannot be read"):
        read_scoreboard(campaign / "scores")
    file.unlink()
    with pytest.raises(ScoresError, match=r"scores\.parquet: cannot be read"):
        read_scoreboard(campaign / "scores")


def test_unreadable_timings_are_named(campaign: Path) -> None:
    (campaign / "scores" / TIMINGS_FILE).write_text("{}")
    with pytest.raises(ScoresError, match=r"timings\.json"):
        read_scoreboard(campaign / "scores")


def test_only_fault_free_cases_give_no_group(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1)})
    board = read_scoreboard(tmp_path / "scores")
    assert board is not None
    assert board.groups == ()
    assert board.methods == ("good",)
    assert (tmp_path / "scores" / RANKINGS_FILE).exists()
