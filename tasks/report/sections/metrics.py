"""The scores of the methods that name metrics."""

from __future__ import annotations

from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.score_dots import score_dots
from tasks.report.section import rendered, section
from tasks.score.accuracy import LEADING_SCORE


@section(link="Metric level", title="Metric level: do they name the right metric?", order=20)
def render(report: ReportData) -> Markup | None:
    board = report.scoreboard
    if board is None or not board.services.groups:
        return None
    return rendered("metrics.html.j2", report, figure=score_dots(board.metrics, LEADING_SCORE))
