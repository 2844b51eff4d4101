"""``rcarena export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import CasesDir, WorkspaceDir
from tasks.datasets.registry import ExportLayout
from tasks.errors import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE, Workspace


def export_dataset(
    layout: Annotated[ExportLayout, typer.Argument(metavar="LAYOUT", help="rcaeval.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the folders go.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    cases: CasesDir = None,
) -> None:
    """Write the finished cases in the layout of RCAEval."""
    from tasks.case import read_cases
    from tasks.console import Console
    from tasks.datasets.rcaeval_export import export_cases

    place, console = cases or Workspace(workspace).cases, Console()
    found = read_cases(place)
    if not found:
        raise ParamsError([f"{place}: no finished case"])
    with console.progress("cases", len(found)) as advance:
        result = export_cases(found, to, advance)
    for line in result.skipped:
        console.say(line)
    console.say(f"export: {len(result.written)} cases written, {len(result.skipped)} skipped; {to}")
