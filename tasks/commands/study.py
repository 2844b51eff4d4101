"""``rcarena study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import ParamsFile
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.workspace import DEFAULT_WORKSPACE

DEFAULT_STUDY = Path("docs/findings.yaml")


def study(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The study file: campaigns, methods, variants, page.")
    ] = DEFAULT_STUDY,
    workspace: Annotated[
        Path, typer.Option("--workspace", metavar="DIR", help="Where rankings and scores are kept.")
    ] = DEFAULT_WORKSPACE / "study",
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Run nothing: make the page of the scores that are kept.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pairs at once; default: one per CPU.")
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
) -> None:
    """Score every method on several recorded campaigns and write what was found as a page.

    Killed or interrupted, the same command goes on where it stopped. Of the parameters only
    `score` matters: seed and limits.
    """
    from tasks.console import Console
    from tasks.study.data import read_data
    from tasks.study.page import write_page
    from tasks.study.plan import read_study
    from tasks.study.run import score_study

    if as_is and workers is not None:
        raise ParamsError(["--workers: not with --as-is, which runs nothing"])
    console, base = Console(), load_params(params).score
    planned = read_study(file, base)
    if not as_is:
        score_study(planned, workspace, base, console, workers)
    page = write_page(read_data(planned, workspace))
    console.say(f"study: {page}")
