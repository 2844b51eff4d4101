"""The table of cases, and the rank that each method gave the true service."""

from __future__ import annotations

from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.section import rendered, section


@section(link="Cases", title="Cases", order=70)
def render(report: ReportData) -> Markup:
    return rendered("cases.html.j2", report)
