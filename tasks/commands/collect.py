"""``rcarena collect``."""

from __future__ import annotations

from tasks.commands.options import KeepStack, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def collect(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: KeepStack = False,
) -> None:
    """Record every case of the campaign that is not finished yet."""
    from tasks.campaign.collect import collect as collect_cases
    from tasks.console import Console

    collect_cases(checked_params(params), workspace_at(workspace), Console(), keep_stack=keep_stack)
