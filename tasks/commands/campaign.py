"""``rcarena campaign``."""

from __future__ import annotations

from tasks.commands.options import KeepStack, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def campaign(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: KeepStack = False,
) -> None:
    """Run a whole campaign: collect every case, score every method, write the report."""
    from tasks.campaign.collect import collect
    from tasks.console import Console
    from tasks.report.page import write_report
    from tasks.score.stage import score_workspace

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    collect(checked, place, console, keep_stack=keep_stack)
    result = score_workspace(checked, place, console)
    page = write_report(
        place.cases,
        place.scores,
        place.report,
        title=checked.report.title,
        params=checked,
        recovery_dir=place.remediation,
    )
    console.say("report: written")
    console.show("\n".join(["", result.text(), "", f"report: {page}"]))
