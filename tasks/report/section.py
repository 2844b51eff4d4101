"""Sections of the report and their registry.

A module of ``tasks.report.sections`` (or of another package, by an entry point of the group ``rcarena.sections``) holds
one: a function under ``@section`` that returns its HTML. ``tasks.html.shell.figure`` draws any Plotly figure; a section
of ours that needs more has a template ``<name>.html.j2`` and a script ``<name>.js`` beside it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.html.shell import templates
from tasks.plugins import Registry
from tasks.report.data import ReportData, one_line
from tasks.report.latency import PHASES
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS

log = logging.getLogger(__name__)

CASES_LINKED = 12
"""Maximum number of cases that a list links to; the others are counted."""
VERDICT_MARKS = {"effective": "✓", "partly effective": "◐", "ineffective": "✕", "fault-free": "○", "labelled": "✎"}

Render = Callable[[ReportData], Markup | None]


@dataclass(frozen=True)
class Section:
    """A section. ``name``: its anchor; ``link``: its name in the navigation; ``order``: its position, ascending;
    ``render`` returns the HTML below the heading ``title``, or None where the section does not apply."""

    name: str
    link: str
    title: str
    order: int
    render: Render
    module: str

    @property
    def script(self) -> str:
        """Text of the script beside its module; empty without one."""
        package, _, module = self.module.rpartition(".")
        file = resources.files(package) / f"{module}.js"
        return file.read_text(encoding="utf-8") if file.is_file() else ""


SECTIONS: Registry[Section] = Registry("section", "rcarena.sections", ["tasks.report.sections"])


def section(*, link: str, title: str, order: int) -> Callable[[Render], Render]:
    """Register the decorated function as a section named like its module."""

    def register(render: Render) -> Render:
        name = render.__module__.rpartition(".")[2]
        SECTIONS.register(name, Section(name, link, title, order, render, render.__module__), render.__module__)
        return render

    return register


def sections() -> list[Section]:
    """Return the usable sections in page order."""
    found = sorted(SECTIONS.all().values(), key=lambda each: (each.order, each.name))
    for broken in SECTIONS.broken():
        log.warning("section %s", broken)
    return found


def rendered(template: str, report: ReportData, **variables: Any) -> Markup:
    """Render one of our templates."""
    board = report.scoreboard
    return Markup(  # noqa: S704 (the template escapes)
        environment()
        .get_template(template)
        .render(
            report=report,
            board=board,
            methods=board.methods if board else (),
            shown_cases={case.case_id for case in report.detailed},
            **variables,
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates of page and sections, with their shared globals and filters."""
    found = templates("tasks.report", "templates", "sections")
    found.globals |= {
        "CASES_LINKED": CASES_LINKED,
        "LEADING_SCORE": LEADING_SCORE,
        "PHASES": PHASES,
        "SCORE_LABELS": SCORE_LABELS,
        "VERDICT_MARKS": VERDICT_MARKS,
    }
    filters: dict[str, Callable[..., str]] = {
        "one_line": one_line,
        "rank_style": lambda rank: "r1" if rank == 1 else "r3" if rank <= 3 else "r5" if rank <= 5 else "rn",
        "offset": lambda seconds: f"{seconds:+.1f}\u00a0s".replace("-", "−"),
        "utc": _utc,
    }
    found.filters |= filters
    return found


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
