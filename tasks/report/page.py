"""The report: one HTML file that needs no network and no server."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from datetime import datetime
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from tasks.params import Params
from tasks.report import formatting
from tasks.report.comparison import p_value
from tasks.report.critical_difference import critical_difference
from tasks.report.data import ReportData, one_line, report_data
from tasks.report.dot_plot import dot_plot
from tasks.report.figures import case_figure, packed
from tasks.report.latency import PHASES
from tasks.report.misattribution import NAMED_ROLES, OTHERS
from tasks.report.signals import MAX_SIGMAS
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS
from tasks.system.durable import write_durably

log = logging.getLogger(__name__)

PAGE_FILE = "index.html"
NOTICE_CASES = 12
FAILURE_CASES = 3
RANKS_SHOWN = 10
VERDICT_MARKS = {"effective": "✓", "partly effective": "◐", "ineffective": "✕", "fault-free": "○"}
FIGURE_SCORES = ("avg5", "ac1")
FIGURE_LEVELS = ("overall", "fault")
SCORE_TABLES = {"fault": "fault kind", "target": "target"}
METHODS_UNFOLDED = 8
DEFINITIONS = {
    "AC@k": "Share of the true services in the first k ranks, |top k ∩ truth| / min(k, |truth|), averaged over cases.",
    "Avg@5": "Mean of AC@1 to AC@5.",
    "MRR": "Mean of 1 / rank of the best ranked true service; 0 when none is ranked.",
    "Chance": "What a uniformly random ranking of the candidate services reaches in expectation on the same cases.",
    "Role prior": "The same if services with a role that was ever at fault in this campaign come first.",
    "Chance per column": "The same if metric columns are drawn, and a service has the place of its first one.",
    "Tail": "Scores take a list as given: what it leaves out is not found. With a tail, that follows in random order.",
    "Lift": "Score divided by chance; 1 is guessing.",
    "Interval": "Bootstrap over cases.",
    "Failed": "A method that fails or exceeds its limits on a case scores zero there; no ranking is made up for it.",
    "Tie ≈": "Services with equal scores; a seeded shuffle decides their order.",
    "Verdict": "Effective: the fault's own probe saw its effect; partly: for some of the injections of the case.",
    "Latency": "From the time a request was scheduled to its last token, so that waiting to be sent counts.",
    "Failed request": "Has an error, a status outside 200–299, or no last token; quantiles are over the others.",
    "Change in σ": "Distance of the fault and baseline medians in baseline standard deviations (at least 1 % of it).",
}


def write_report(cases_dir: Path, scores_dir: Path, out_dir: Path, *, title: str, params: Params | None = None) -> Path:
    """Write ``out_dir/index.html`` from the finished cases and, where they exist, their scores; return its path.

    ``params``: the resolved parameters of the campaign, shown in the footer.

    The same inputs give the same bytes. The file appears whole or not at all.

    Raises:
        ScoresError: a file of ``scores_dir`` exists but is not what the score stage writes.
    """
    html = render(report_data(cases_dir, scores_dir, title=title, params=params))
    out_dir.mkdir(parents=True, exist_ok=True)
    page = out_dir / PAGE_FILE
    write_durably(page, html.encode())
    log.info("report of %d cases: %s (%.1f MB)", html.count('<details class="case"'), page, len(html) / 1e6)
    return page


def render(report: ReportData) -> str:
    """The page as a string."""
    environment = _environment()
    board = report.scoreboard
    figures = {case.case_id: figure for case in report.cases if (figure := case_figure(case))}
    return environment.get_template("index.html.j2").render(
        report=report,
        board=board,
        methods=board.methods if board else (),
        shown_cases={case.case_id for case in report.cases},
        figures=[dot_plot(board.services, name, FIGURE_LEVELS) for name in FIGURE_SCORES] if board else [],
        metric_figures=[dot_plot(board.metrics, name, FIGURE_LEVELS) for name in FIGURE_SCORES[:1]] if board else [],
        comparisons=[(found, critical_difference(found)) for found in board.comparisons or ()] if board else [],
        case_figures=figures,
        plotting_library=_plotting_library() if figures else "",
        stylesheet=_asset("report.css"),
        behaviour=_asset("report.js"),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "DEFINITIONS": DEFINITIONS,
        "FAILURE_CASES": FAILURE_CASES,
        "LEADING_SCORE": LEADING_SCORE,
        "MAX_SIGMAS": MAX_SIGMAS,
        "METHODS_UNFOLDED": METHODS_UNFOLDED,
        "NAMED_ROLES": NAMED_ROLES,
        "NOTICE_CASES": NOTICE_CASES,
        "OTHERS": OTHERS,
        "PHASES": PHASES,
        "RANKS_SHOWN": RANKS_SHOWN,
        "SCORE_LABELS": SCORE_LABELS,
        "SCORE_TABLES": SCORE_TABLES,
        "VERDICT_MARKS": VERDICT_MARKS,
    }
    filters: dict[str, Callable[..., str]] = {
        "coordinate": lambda value: f"{value:.4g}",
        "one_line": one_line,
        "p_value": p_value,
        "rank_style": _rank_style,
        "short": formatting.short_difference,
        "seconds": formatting.seconds,
        "signed": formatting.difference,
        "offset": lambda seconds: f"{seconds:+.1f}\u00a0s".replace("-", "−"),
        "quantity": formatting.quantity,
        "score": formatting.score,
        "utc": _utc,
    }
    environment.filters |= filters
    return environment


def _rank_style(rank: int) -> str:
    return "r1" if rank == 1 else "r3" if rank <= 3 else "r5" if rank <= 5 else "rn"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _asset(name: str) -> Markup:
    """A style sheet or script of this package, trusted to stand between its tags."""
    return Markup((resources.files("tasks.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704 (ours)


@functools.cache
def _plotting_library() -> str:
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs().encode())
