"""``rcarena validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import EXIT_FAILED


def validate(paths: Annotated[list[Path], typer.Argument(help="Case directories.")]) -> None:
    """Check case directories against the case contract; exit status 1 when one breaks it."""
    from tasks.case import validate_case

    broken = 0
    for path in paths:
        problems = validate_case(path) if path.is_dir() else ["no such directory"]
        broken += bool(problems)
        typer.echo("\n".join(f"{path}: {problem}" for problem in problems) or f"{path}: ok")
    if broken:
        raise typer.Exit(EXIT_FAILED)
