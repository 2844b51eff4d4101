"""``rcarena record`` and ``rcarena compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.validation import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE

EXIT_REGRESSED = 3
DEFAULT_BRANCH = "results"

RepositoryDir = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="A clone of the results repository.", show_default=True)
]
Branch = Annotated[str, typer.Option("--branch", help="Where campaigns are recorded.")]


def record(
    repository: RepositoryDir = Path(),
    branch: Branch = DEFAULT_BRANCH,
    push: Annotated[bool, typer.Option("--push/--no-push", help="Put the data into DVC's default remote.")] = True,
    git_remote: Annotated[
        str | None, typer.Option("--git-remote", metavar="NAME", help="Publish the branch there, too.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Record although planned cases are missing.")
    ] = False,
    rescored: Annotated[
        bool, typer.Option("--rescored", help="Record a recorded campaign again if its scores are others now.")
    ] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for another recording.")] = 900,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Record the campaign: data to DVC's remote, one commit on the results branch. Safe to repeat.

    Your working tree, index and branch are not touched.
    """
    from dataclasses import asdict

    from tasks.console import Console
    from tasks.record.record import RecordOptions, record_campaign

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    say = (lambda line: typer.echo(line, err=True)) if as_json else console.say
    options = RecordOptions(repository, branch, push, git_remote, allow_missing, rescored, wait)
    recorded = record_campaign(checked, params.read_text(encoding="utf-8"), place, options, say)
    if as_json:
        typer.echo(json.dumps(asdict(recorded), indent=1))


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
    """What changed between two campaigns: scores, latency, effects, versions, parameters, failures."""
    from tasks.compare.campaigns import Campaigns
    from tasks.compare.compare import compare as compare_sides
    from tasks.compare.page import write_page
    from tasks.compare.regression import judge
    from tasks.compare.statistics import Resampling
    from tasks.compare.tables import document, show
    from tasks.record.git import open_repository

    if rev_a is None and not gate:
        raise ParamsError(["give REV_A (and REV_B), or --gate"])
    checked, place, git = checked_params(params), workspace_at(workspace), open_repository(repository)
    margins = {"score_margin": margin_score, "latency_margin": margin_latency}
    limits = checked.gate.model_copy(update={name: value for name, value in margins.items() if value is not None})
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
