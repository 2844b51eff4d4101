"""Show the answer of a backend."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tasks.commands.errors import fail
from tasks.commands.options import chosen_stacks
from tasks.errors import EXIT_FAILED, ParamsError
from tasks.params import load_params
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.backends.base import Answer, Backend


def usable_backends(params: Path, place: Workspace, stack: int | None) -> list[Backend[Any]]:
    """Return the backend of every stack of ``params``, or of ``stack`` alone. Raises ParamsError when no stack can come
    of them."""
    from tasks.backends import backend_of, deploy_problems

    loaded = load_params(params)
    problems = deploy_problems(loaded.deploy)
    if problems:
        raise ParamsError(f"{params}: {problem}" for problem in problems)
    return [backend_of(loaded, each) for each in chosen_stacks(loaded, place, stack)]


def together(answers: Iterable[tuple[Workspace, Answer]]) -> Answer:
    """Return the answers of several stacks as one; that of an only stack as it is."""
    from tasks.backends.base import Answer

    found = list(answers)
    if len(found) == 1:
        return found[0][1]
    failures = [answer.failure for _, answer in found if answer.failure is not None]
    return Answer(
        text="\n".join(f"stack {place.stack_index}:\n{answer.text}" for place, answer in found),
        document=[{"stack": place.stack_index, "answer": answer.document} for place, answer in found],
        failure="\n".join(filter(None, failures)) if failures else None,
    )


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
