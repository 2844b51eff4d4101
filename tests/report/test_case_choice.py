"""Which cases a page shows when there are too many to show all."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tasks.case import Case, CaseRecord
from tasks.report import data
from tasks.report.case_choice import Limits, choose
from tasks.report.case_metrics import CaseSignals
from tasks.report.data import report_data
from tasks.report.page import render
from tasks.report.scoreboard import read_scoreboard
from tests.report.scores import truth_at, write_scores
from tests.synthetic import synthetic_case

KINDS = {"cpu-1": "cpu-stress", "cpu-2": "cpu-stress", "cpu-3": "cpu-stress", "net-1": "network-delay", "quiet": None}
HARD = {"cpu-2": 3, "cpu-3": 2}
"""Cases in which the method names the root late."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for case, kind in KINDS.items():
        synthetic_case(tmp_path / "cases", case, kind=kind)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1), "fair": fair})
    return tmp_path


def fair(record: CaseRecord) -> list[str]:
    return truth_at(HARD.get(record.case_id, 1))(record)


def test_every_fault_has_its_hardest_case_first(workspace: Path) -> None:
    board = read_scoreboard(workspace / "scores")
    shown = choose(list(KINDS), board, Limits(listed=4, detailed=3))
    assert shown.detailed == {"cpu-2", "quiet", "net-1"}
    assert shown.listed == {*shown.detailed, "cpu-3"}


def test_what_is_asked_for_is_shown_whatever_the_limits(workspace: Path) -> None:
    board = read_scoreboard(workspace / "scores")
    assert choose(list(KINDS), board, Limits(1, 1), ["cpu-1", "net-1", "absent"]).detailed == {"cpu-1", "net-1"}
    assert choose(list(KINDS), None, Limits(1, 1)).listed == {"cpu-1"}


def test_a_campaign_of_ordinary_size_is_shown_whole(workspace: Path) -> None:
    shown = choose(list(KINDS), read_scoreboard(workspace / "scores"), Limits(5, 5))
    assert shown.listed == shown.detailed == set(KINDS)


def test_a_page_says_how_many_it_shows_and_reads_no_more_than_it_needs_of_the_others(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    read = data.case_signals

    def noted(case: Case, *origin: datetime) -> CaseSignals | None:
        drawn.append(case.record.case_id)
        return read(case, *origin)

    monkeypatch.setattr(data, "case_signals", noted)
    places = workspace / "cases", workspace / "scores"
    report = report_data(*places, title="t", limits=Limits(listed=3, detailed=1))
    html = render(report)
    assert drawn == ["cpu-2"]
    assert "3 of 5 cases are listed, 1 of them with their details" in html
    assert html.count('<details class="case"') == 1
    assert 'href="#cpu-2"' in html
    assert 'href="#net-1"' not in html
    assert "<li><b>5</b> cases</li>" in html
    assert report.verdicts == report_data(*places, title="t").verdicts
    assert report.facts == report_data(*places, title="t").facts
