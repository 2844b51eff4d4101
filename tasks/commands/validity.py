"""``rcarena validity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validity(
    recorded: Annotated[list[Path], typer.Argument(metavar="RECORDED...", help="Workspaces of recorded cases.")],
    simulated: Annotated[
        Path, typer.Argument(metavar="SIMULATED", help="Workspace of their twins: `rcarena twins` makes it.")
    ],
    fitted: Annotated[
        list[str] | None,
        typer.Option("--fitted", metavar="CAMPAIGN", help="A campaign that the calibration was fitted to; repeatable."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Markdown file to write the tables to.")
    ] = None,
) -> None:
    """Compare recorded cases with their simulated twins: effects of the faults, verdicts, ranking of the methods.

    Score the workspaces first for the ranking of the methods.
    """
    from tasks.compare.validity import markdown
    from tasks.compare.validity import validity as compare
    from tasks.system.durable import write_durably

    text = markdown(compare(recorded, simulated, fitted or ()))
    if page is not None:
        write_durably(page, text.encode())
    typer.echo(text)
