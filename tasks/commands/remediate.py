"""``rcarena remediate``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, planned_cases, workspace_at
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def remediate(
    workers: Annotated[int, typer.Option("--workers", min=1, max=1024, help="Cases at a time.")] = 1,
    limit: Annotated[
        int | None, typer.Option("--cases", min=1, help="Only so many cases of the campaign; the order is random.")
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option("--case", metavar="ID", help="Only run this case; tables are left as they are.")
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Run nothing: make the tables of the cases that have finished.")
    ] = False,
    if_enabled: Annotated[
        bool, typer.Option("--if-enabled", help="Do nothing unless `remediate.enabled` is true.")
    ] = False,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave a real stack up at the end.")] = False,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run each case of the campaign under each policy of `remediate`, and say what each policy spares users."""
    from tasks.console import Console
    from tasks.remediate.experiment import finished_rows, run_experiment
    from tasks.remediate.live import is_live
    from tasks.remediate.stage import publish, publish_nothing, text

    if case and (limit is not None or as_json):
        raise ParamsError(["--case: not with --cases, nor with --json, as it makes no tables"])
    if finished and (case or limit is not None or keep_stack or workers != 1):
        raise ParamsError(["--finished: not with --case, --cases, --keep-stack or --workers, as it runs nothing"])
    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    if workers != 1 and is_live(checked):
        raise ParamsError(["--workers: one run at a time is on a real stack"])
    if keep_stack and not is_live(checked):
        raise ParamsError([f"--keep-stack: cases of the backend {checked.deploy.backend} have no stack"])
    if if_enabled and not checked.remediate.enabled:
        if not case:
            publish_nothing(place.remediation)
        console.say("remediate: nothing to do, remediate.enabled is false")
        return
    say = (lambda line: None) if as_json else console.say
    if case:
        planned_cases(checked, case)
        run_experiment(checked, place, workers, say, cases=case, keep_stack=keep_stack)
        return
    if finished:
        rows = finished_rows(checked, place)
        if not rows:
            raise ParamsError([f"--finished: no case has run under every policy in {place.episodes}"])
    else:
        rows = run_experiment(checked, place, workers, say, limit, keep_stack=keep_stack)
    found = publish(rows, place.remediation, checked.score)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        typer.echo(text(found))
