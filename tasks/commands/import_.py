"""``rcarena import``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import CasesDir, WorkspaceDir
from tasks.datasets.registry import Layout
from tasks.errors import EXIT_FAILED, EXIT_USAGE
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

LINE_LENGTH = 240
"""Characters of the line that says what was left out of a case."""


def import_dataset(
    layout: Annotated[Layout, typer.Argument(metavar="LAYOUT", help="rcaeval, petshop or nezha.")],
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The data set: a directory, or a tar or zip archive.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    cases: CasesDir = None,
    service: Annotated[
        str | None, typer.Option("--service", help="Root cause, for a single case that does not say (rcaeval).")
    ] = None,
    fault: Annotated[str | None, typer.Option("--fault", help="Its fault, for example cpu (rcaeval).")] = None,
    inject_time: Annotated[float | None, typer.Option("--inject-time", help="Seconds since 1970 (rcaeval).")] = None,
    front_end: Annotated[
        str | None,
        typer.Option("--front-end", help="The service that users see, where it cannot be told (rcaeval, nezha)."),
    ] = None,
) -> None:
    """Turn a data set of other people into cases; what is there already is kept."""
    from tasks.console import Console
    from tasks.datasets.dataset import Overrides
    from tasks.datasets.importing import import_cases, unpacked
    from tasks.datasets.registry import reader

    place, console = cases or Workspace(workspace).cases, Console()
    overrides = Overrides(service, fault, inject_time, front_end)
    with unpacked(source) as directory:
        found = reader(layout)(directory, overrides)
        for line in found.skipped:
            console.say(line)
        with console.progress("cases", len(found.cases)) as advance:
            result = import_cases(found, place, advance)
        failed = [line.replace(f"{directory}/", "") for line in result.failed]
    for line in result.left_out:
        console.say(textwrap.shorten(line, LINE_LENGTH, placeholder=" … (see completeness in its case.json)"))
    for line in failed:
        typer.echo(f"rcarena: {line}", err=True)
    console.say(
        f"import: {len(result.imported)} cases imported, {len(result.kept)} kept, {len(result.failed)} failed; {place}"
    )
    if result.failed:
        raise typer.Exit(EXIT_FAILED if result.imported or result.kept else EXIT_USAGE)
