"""``rcarena report``."""

from __future__ import annotations

from tasks.commands.options import ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def report(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Write the HTML report from the recorded cases and their scores."""
    from tasks.console import Console
    from tasks.report.page import write_report

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    page = write_report(place.cases, place.scores, place.report, title=checked.report.title, params=checked)
    console.say("report: written")
    console.show(f"report: {page}")
