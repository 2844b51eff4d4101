"""Show the answer of a backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tasks.commands.errors import fail
from tasks.errors import EXIT_FAILED, ParamsError
from tasks.params import load_params
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.backends.base import Answer, Backend


def usable_backend(params: Path, place: Workspace) -> Backend[Any]:
    """Return the backend of ``params``. Raises ParamsError when no stack can come of them."""
    from tasks.backends import backend_of

    backend = backend_of(load_params(params), place)
    problems = backend.problems(backend.deploy)
    if problems:
        raise ParamsError(f"{params}: {problem}" for problem in problems)
    return backend


def show(answer: Answer, as_json: bool) -> None:
    """Print ``answer``; end the command with status 1 if it says so."""
    if as_json:
        typer.echo(json.dumps(answer.document, indent=1))
    elif answer.text:
        typer.echo(answer.text)
    if answer.failure:
        fail(answer.failure, EXIT_FAILED)
    if answer.failure is not None:
        raise typer.Exit(EXIT_FAILED)
