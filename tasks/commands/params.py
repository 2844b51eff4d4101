"""``rcarena params ...``."""

from __future__ import annotations

import typer

from tasks.commands.errors import stage
from tasks.commands.options import ParamsFile, WorkspaceDir, checked_params
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

params_app = typer.Typer(help="Look at the parameters.", no_args_is_help=True)


@params_app.command("check")
@stage
def params_check(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Check a parameter file; exit status 2 when it cannot be used."""
    checked_params(params)
    typer.echo(f"{params}: ok")


@params_app.command("show")
@stage
def params_show(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Print the resolved parameters: every default spelled out."""
    typer.echo(checked_params(params).dump(), nl=False)
