"""``rcarena compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import (
    DEFAULT_BRANCH,
    AsJson,
    Branch,
    ParamsFile,
    RepositoryDir,
    WorkspaceDir,
    checked_params,
    workspace_at,
)
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

EXIT_REGRESSED = 3


def compare(
    rev_a: Annotated[
        str | None, typer.Argument(metavar="REV_A", help="Earlier: a revision or a campaign id; default: see --gate.")
    ] = None,
    rev_b: Annotated[
        str | None, typer.Argument(metavar="REV_B", help="Later; default: the campaign in the workspace.")
    ] = None,
    repository: RepositoryDir = Path(),
    branch: Branch = DEFAULT_BRANCH,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with figures.")] = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Exit status 3 if scores or the stack's own latency regressed. Without REV_A: against the last "
            "recorded campaign of the same name.",
        ),
    ] = False,
    margin_score: Annotated[
        float | None, typer.Option("--margin-score", min=0, max=1, help="Fall of Avg@5; default: gate.score_margin.")
    ] = None,
    margin_latency: Annotated[
        float | None, typer.Option("--margin-latency", min=0, help="Rise as a share; default: gate.latency_margin.")
    ] = None,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Show what changed between two campaigns: scores, latency, effects, versions, parameters, failures."""
    from tasks.compare.campaigns import Campaigns
    from tasks.compare.compare import compare as compare_sides
    from tasks.compare.page import write_page
    from tasks.compare.regression import judge
    from tasks.compare.statistics import Resampling
    from tasks.compare.tables import document, show
    from tasks.record.git import open_repository

    if rev_a is None and not gate:
        raise ParamsError(["give REV_A (and REV_B), or --gate"])
    margins = {"score_margin": margin_score, "latency_margin": margin_latency}
    margins = {name: value for name, value in margins.items() if value is not None}
    if margins and not gate:
        raise ParamsError(["--margin-score and --margin-latency: need --gate"])
    checked, place, git = checked_params(params), workspace_at(workspace), open_repository(repository)
    limits = checked.gate.model_copy(update=margins)
    campaigns = Campaigns(git, branch, place, params.read_text(encoding="utf-8"), checked)
    earlier = campaigns.previous(rev_b) if rev_a is None else campaigns.recorded(rev_a)
    if earlier is None:
        nothing = f"no earlier campaign '{checked.campaign.name}' on '{branch}': nothing to compare with"
        typer.echo(json.dumps({"previous": None, "note": nothing}) if as_json else nothing)
        return
    score = checked.score
    how = Resampling(score.bootstrap_samples, score.confidence, score.seed)
    comparison = compare_sides(earlier, campaigns.later(rev_b), how)
    verdict = judge(comparison, limits) if gate else None
    if html is not None:
        write_page(comparison, verdict, html)
    if as_json:
        typer.echo(json.dumps(document(comparison, verdict), indent=1))
    else:
        show(comparison, verdict)
    if verdict is not None and verdict.regressions:
        raise typer.Exit(EXIT_REGRESSED)
