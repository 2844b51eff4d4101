from pathlib import Path

import pytest

from tasks.report.score_dots import score_dots
from tasks.report.scoreboard import Scoreboard, read_scoreboard
from tests.report.scores import fails, truth_at, write_scores
from tests.synthetic import synthetic_case


def board_of(root: Path, methods: dict, faults: list[str]) -> Scoreboard:
    for i, kind in enumerate(faults):
        synthetic_case(root / "cases", f"c{i}", kind=kind, baseline_s=3, fault_s=3, recovery_s=1)
    write_scores(root / "cases", root / "scores", methods)
    board = read_scoreboard(root / "scores")
    assert board is not None
    return board


def test_marks_stand_on_a_zero_to_one_axis_best_method_on_top(tmp_path: Path) -> None:
    methods = {"broken": fails(), "good": truth_at(1)}
    board = board_of(tmp_path, methods, ["cpu-stress", "memory-stress"])
    figure = score_dots(board.services, "avg5", ("overall", "fault"))
    assert [facet.title for facet in figure.facets] == ["all scored cases", "cpu-stress", "memory-stress"]
    good, broken = figure.facets[0].marks
    assert (good.x, broken.x) == (figure.axis_width, 0)
    assert good.chance == pytest.approx(0.6 * figure.axis_width)
    assert 0 < good.y < broken.y < figure.plot_height
    assert [label.text for label in figure.row_labels] == ["good", "broken"]
    assert all(facet.x + figure.axis_width <= figure.width for facet in figure.facets)
    assert good.text.startswith("good, all scored cases: Avg@5 1.00 [1.00, 1.00], chance 0.60")


def test_many_groups_wrap(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": truth_at(1)}, [f"kind-{i}" for i in range(7)])
    figure = score_dots(board.services, "ac1", ("overall", "fault"))
    assert len({facet.y for facet in figure.facets}) == 2
    assert len({(facet.x, facet.y) for facet in figure.facets}) == 8
    assert all(facet.y + figure.plot_height <= figure.height for facet in figure.facets)


def test_many_methods_stand_closer(tmp_path: Path) -> None:
    board = board_of(tmp_path, {f"m{i}": truth_at(i % 5 + 1) for i in range(24)}, ["cpu-stress"])
    figure = score_dots(board.services, "avg5", ("overall",))
    assert len({mark.y for mark in figure.facets[0].marks}) == 24
    assert figure.height < 500
    values = [mark.x for mark in figure.facets[0].marks]
    assert values == sorted(values, reverse=True)


def test_the_first_place_has_wilsons_interval_which_few_right_cases_do_not_close(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": truth_at(1)}, ["cpu-stress"] * 2)
    (mark,) = score_dots(board.services, "ac1", ("fault",)).facets[0].marks
    assert mark.low == pytest.approx(0.3424 * 170, abs=0.01)
    assert mark.high == mark.x == 170
    (mark,) = score_dots(board.services, "avg5", ("fault",)).facets[0].marks
    assert mark.low == mark.high == 170
