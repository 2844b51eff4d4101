"""``rcarena record``."""

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
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


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
