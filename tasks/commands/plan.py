"""``rcarena plan``."""

from __future__ import annotations

import json

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def plan(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the cases of the campaign and which are finished."""
    from tasks.campaign.plan import plan_campaign
    from tasks.case import is_finished

    checked, place = checked_params(params), workspace_at(workspace)
    plans = [(each, is_finished(place.cases / each.case_id)) for each in plan_campaign(checked)]
    if as_json:
        rows = [
            {
                "case_id": each.case_id,
                "repetition": each.repetition,
                "seed": each.seed,
                "injections": [injection.model_dump(mode="json") for injection in each.injections],
                "finished": finished,
            }
            for each, finished in plans
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    for each, finished in plans:
        typer.echo(f"{each.case_id}  {'finished' if finished else 'pending '}  {each.label}")
    windows = checked.campaign.windows
    seconds = windows.warmup_s + windows.baseline_s + windows.fault_s + windows.recovery_s
    typer.echo(
        f"{len(plans)} cases of {seconds:g} s each: about {len(plans) * (seconds + 8) / 60:.0f} min and the start"
    )
