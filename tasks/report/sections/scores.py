"""The scores of the methods among services."""

from __future__ import annotations

from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.score_dots import score_dots
from tasks.report.section import rendered, section
from tasks.report.sections.costs import method_costs

FIGURE_SCORES = ("avg5", "ac1")
METHODS_UNFOLDED = 8


@section(link="Scores", title="Scores", order=10)
def render(report: ReportData) -> Markup | None:
    if report.only_recovery:
        return None
    board = report.scoreboard
    return rendered(
        "scores.html.j2",
        report,
        costs=(method_costs(board.files.costs, board.methods) if board else None) or {},
        figures=[score_dots(board.services, name) for name in FIGURE_SCORES] if board else [],
        unfolded=board is not None and len(board.methods) <= METHODS_UNFOLDED,
    )
