"""``rcarena report``."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.commands.options import ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE


def report(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="ID", help="Show the details of this case; matters beyond 100 cases."),
    ] = None,
) -> None:
    """Write the HTML report from the recorded cases and their scores."""
    from tasks.case import is_finished
    from tasks.console import Console
    from tasks.report.page import write_report

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    asked_for = tuple(case or ())
    if absent := [each for each in asked_for if not is_finished(place.cases / each)]:
        raise ParamsError([f"--case: no finished case '{each}' in {place.cases}" for each in absent])
    page = write_report(
        place.cases,
        place.scores,
        place.report,
        title=checked.report.title,
        params=checked,
        asked_for=asked_for,
        recovery_dir=place.remediation,
    )
    console.say("report: written")
    console.show(f"report: {page}")
