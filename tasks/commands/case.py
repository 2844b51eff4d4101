"""``rcarena case``."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.commands.options import (
    ParamsFile,
    StackIndex,
    WorkspaceDir,
    checked_params,
    one_stack,
    planned_case,
    workspace_at,
)
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def case(
    case_id: Annotated[str, typer.Argument(help="A case id of `rcarena plan`.")],
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Record one case on the running stack (load ‖ inject, then export)."""
    from tasks.campaign.attempt import run_case
    from tasks.case import is_finished
    from tasks.console import Console

    checked, console = checked_params(params), Console()
    place = one_stack(checked, workspace_at(workspace), stack)
    planned = planned_case(checked, case_id)
    if is_finished(place.cases / case_id):
        console.say(f"{case_id} is finished already")
        return
    finished = run_case(checked, place, planned, console.say)
    console.say(f"recorded {finished.path.name}: {finished.record.load.requests} requests")
