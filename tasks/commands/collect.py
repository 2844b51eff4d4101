"""``rcarena collect``."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.commands.options import (
    KeepStack,
    MakingWorkers,
    ParamsFile,
    WorkspaceDir,
    checked_params,
    chosen_stacks,
    workspace_at,
)
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def collect(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: KeepStack = False,
    workers: MakingWorkers = None,
    stack: Annotated[int | None, typer.Option("--stack", min=0, hidden=True)] = None,  # `collect` calls itself
) -> None:
    """Record every case of the campaign that is not finished yet."""
    from tasks.backends import find
    from tasks.campaign.collect import collect as collect_cases
    from tasks.campaign.collect import collect_on
    from tasks.console import Console

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    if workers is not None and not find(checked.deploy.backend).makes_cases():
        raise ParamsError([f"--workers: cases of the backend {checked.deploy.backend} are not computed"])
    if stack is None:
        collect_cases(checked, place, console, keep_stack=keep_stack, workers=workers)
    else:
        (chosen,) = chosen_stacks(checked, place, stack)
        collect_on(checked, chosen, console, keep_stack=keep_stack)
