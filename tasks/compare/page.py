"""A comparison as one HTML file that needs no network: the report's look, tables and two figures."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from tasks.compare.compare import Comparison
from tasks.compare.figures import latency_figure, score_figure
from tasks.compare.regression import Verdict
from tasks.compare.tables import NO_CHANGE, blocks, heading, verdict_lines
from tasks.report.figures import packed
from tasks.system.durable import write_durably


def write_page(comparison: Comparison, verdict: Verdict | None, file: Path) -> None:
    """The same comparison gives the same bytes. The file appears whole or not at all."""
    html = render(comparison, verdict)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, html.encode())


def render(comparison: Comparison, verdict: Verdict | None) -> str:
    """The page as a string."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.compare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {"scores": score_figure(comparison), "latency": latency_figure(comparison)}
    return environment.get_template("compare.html.j2").render(
        a=heading(comparison.a),
        b=heading(comparison.b),
        regressed=bool(verdict and verdict.regressions),
        verdict=verdict_lines(verdict) if verdict else [],
        blocks=list(blocks(comparison)),
        nothing=NO_CHANGE,
        figures={name: packed(json.dumps(figure, allow_nan=False).encode()) for name, figure in figures.items()},
        plotting_library=packed(_plotting_library()),
        stylesheet=_text("tasks.report", "report.css"),
        behaviour=_text("tasks.compare", "compare.js"),
    )


def _plotting_library() -> bytes:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).encode()


def _text(package: str, name: str) -> Markup:
    """A style sheet or script of ours, trusted to stand between its tags."""
    return Markup((resources.files(package) / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704 (our own files)
