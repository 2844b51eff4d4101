"""``rcarena remediate``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def remediate(
    workers: Annotated[int, typer.Option("--workers", min=1, max=1024, help="Cases at a time.")] = 1,
    limit: Annotated[
        int | None, typer.Option("--cases", min=1, help="Only so many cases of the campaign; the order is random.")
    ] = None,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run each case of the campaign under each policy of `remediate`, and say what each policy spares users."""
    from tasks.console import Console
    from tasks.remediate.experiment import run_experiment
    from tasks.remediate.stage import publish, text

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    rows = run_experiment(checked, place, workers, (lambda line: None) if as_json else console.say, limit)
    found = publish(rows, place.remediation, checked.score)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        typer.echo(text(found))
