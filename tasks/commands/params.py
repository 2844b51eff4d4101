"""``rcarena params ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.commands.options import ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, overridden, read_document, validated
from tasks.system.durable import write_durably
from tasks.workspace import DEFAULT_WORKSPACE

params_app = typer.Typer(help="Look at the parameters.", no_args_is_help=True)


@params_app.command("check")
def params_check(params: ParamsFile = DEFAULT_PARAMS_FILE) -> None:
    """Check a parameter file; exit status 2 when it cannot be used."""
    checked_params(params)
    typer.echo(f"{params}: ok")


@params_app.command("show")
def params_show(params: ParamsFile = DEFAULT_PARAMS_FILE) -> None:
    """Print the resolved parameters: every default spelled out."""
    typer.echo(checked_params(params).dump(), nl=False)


@params_app.command("resolve")
def params_resolve(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the checked parameters are written.")],
    base: Annotated[Path | None, typer.Option("--base", metavar="FILE", help="Parameters to start from.")] = None,
    override: Annotated[
        str, typer.Option("--override", metavar="JSON", help="What differs from the base, or all; sections as in FILE.")
    ] = "{}",
    settle: Annotated[
        bool,
        typer.Option(
            "--settle/--no-settle",
            help="Set cases of the workspace aside that the parameters no longer ask for; take back those they do.",
        ),
    ] = False,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Put parameters together, check them and write them with every default spelled out."""
    from tasks.commands.check import check_params

    document = overridden(read_document(base) if base else {}, _mapping(override))
    source = f"{base} with --override" if base else "--override"
    checked = validated(document, source)
    check_params(checked, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, checked.dump().encode())
    typer.echo(f"{out}: campaign {checked.campaign.name}")
    if settle:
        from tasks.campaign.settle import settle_cases
        from tasks.console import Console

        settle_cases(checked, workspace_at(workspace), Console())


def _mapping(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except ValueError as error:
        raise ParamsError([f"--override: not valid JSON: {error}"]) from error
    except RecursionError:
        raise ParamsError(["--override: nested too deeply"]) from None
    if not isinstance(document, dict):
        raise ParamsError(["--override: must be a JSON object with sections of the parameters"])
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key '{key}' is given twice")
        found[key] = value
    return found


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
