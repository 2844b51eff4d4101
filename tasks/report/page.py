"""Renders the report as one self-contained HTML file."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from tasks.html import shell
from tasks.params import Params
from tasks.report.data import ReportData, report_data
from tasks.report.section import rendered, sections

log = logging.getLogger(__name__)

PAGE_FILE = "index.html"
DEFINITIONS = {
    "AC@k": "Recall at k: share of the true services in the first k ranks, |top k ∩ truth| / min(k, |truth|).",
    "Avg@5": "Mean of AC@1 to AC@5.",
    "MRR": "Mean of 1 / rank of the best ranked true service; 0 when none is ranked.",
    "Chance": "What a uniformly random ranking of the candidate services reaches in expectation on the same cases.",
    "Role prior": "The same if services with a role that was ever at fault in this campaign come first.",
    "Chance per column": "The same if metric columns are drawn, and a service has the place of its first one.",
    "Tail": "Scores take a list as given: what it leaves out is not found. With a tail, that follows in random order.",
    "Lift": "Score divided by chance; 1 is guessing.",
    "Interval": "Bootstrap over cases; Wilson for shares of cases.",
    "Set F1": "F1 of the roots that a method names, by service and kind (services F1: by service alone).",
    "Class": "Attributed: users saw the fault, and metrics of the root show it; unexplained: no metric of a root does; "
    "absorbed: users did not see it; contaminated: something else may have made them see it; ineffective: no effect.",
    "Stratum": "I: the root has the strongest symptom; II: no service has one; III: one elsewhere is as strong.",
    "Failed": "A method that fails or exceeds its limits on a case scores zero there; no ranking is made up for it.",
    "Tie ≈": "Services with equal scores; a seeded shuffle decides their order.",
    "Verdict": "Effective: the fault's own probe saw its effect; partly: for some of the root causes of the case.",
    "Latency": "From the time a request was scheduled to its last token, so that waiting to be sent counts.",
    "Failed request": "Has an error, a status outside 200–299, or no last token; quantiles are over the others.",
    "Change in σ": "Distance of the fault and baseline medians in baseline standard deviations (at least 1 % of it).",
}


def write_report(
    cases_dir: Path,
    scores_dir: Path,
    out_dir: Path,
    *,
    title: str,
    params: Params | None = None,
    asked_for: Collection[str] = (),
    recovery_dir: Path | None = None,
) -> Path:
    """Write ``out_dir/index.html`` from the finished cases and, where they exist, their scores; return its path.

    ``params``: the resolved parameters of the campaign, shown in the footer. ``asked_for``: cases whose details are
    shown, however many cases there are. ``recovery_dir``: where the results of the experiment with actions may be.

    Deterministic and atomic.

    Raises:
        ScoreError: a file of ``scores_dir`` exists but is not what the score stage writes.
    """
    found = report_data(
        cases_dir, scores_dir, title=title, params=params, asked_for=asked_for, recovery_dir=recovery_dir
    )
    html = render(found)
    file = out_dir / PAGE_FILE
    shell.write(html, file)
    log.info("report of %d cases: %s (%.1f MB)", html.count('<details class="case"'), file, len(html) / 1e6)
    return file


def render(report: ReportData) -> str:
    """Return the page as a string."""
    shown = [(each, html) for each in sections() if (html := each.render(report)) is not None]
    body = rendered("index.html.j2", report, sections=shown, definitions=DEFINITIONS)
    return shell.page(report.title, body, script="".join(each.script for each, _ in shown))
