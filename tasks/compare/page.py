"""Renders a comparison as one self-contained HTML file with tables and two figures."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from tasks.compare.compare import Comparison
from tasks.compare.figures import latency_figure, score_figure
from tasks.compare.regression import Verdict
from tasks.compare.tables import NO_CHANGE, blocks, heading, verdict_lines
from tasks.html import shell


def write_page(comparison: Comparison, verdict: Verdict | None, file: Path) -> None:
    """Write the page; deterministic."""
    shell.write(render(comparison, verdict), file)


def render(comparison: Comparison, verdict: Verdict | None) -> str:
    """Return the page as a string."""
    body = (
        shell.templates("tasks.compare", "templates")
        .get_template("page.html.j2")
        .render(
            a=heading(comparison.a),
            b=heading(comparison.b),
            regressed=bool(verdict and verdict.regressions),
            verdict=verdict_lines(verdict) if verdict else [],
            blocks=list(blocks(comparison)),
            nothing=NO_CHANGE,
            scores=score_figure(comparison),
            latency=latency_figure(comparison),
        )
    )
    style = shell.asset("tasks.compare", "templates/page.css")
    return shell.page("RCArena: two campaigns", Markup(body), style=style)  # noqa: S704 (the template escapes)
