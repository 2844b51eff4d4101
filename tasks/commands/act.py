"""``rcarena act``."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.commands.options import StackIndex, WorkspaceDir, workspace_at
from tasks.errors import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE


def act(
    action: Annotated[str, typer.Argument(help="An action of `rcarena actions`.")],
    target: Annotated[str, typer.Argument(help="The service to act on.")],
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo the action where it lasts: readmit what is ejected.")
    ] = False,
    case: Annotated[
        str, typer.Option("--case", metavar="ID", help="What it is done for: once per ID, target and action.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could be done.")] = False,
    stack: StackIndex = None,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Carry out one action on a service of the running stack; `rcarena inject --recover` undoes what lasts."""
    import time

    from tasks.actions.act import act as carry_out
    from tasks.actions.act import known_action, refusal, undo_action
    from tasks.actions.errors import ActionRefusedError
    from tasks.backends import running
    from tasks.console import Console

    if undo and (case or dry_run):
        raise ParamsError(["--undo: not with --case or --dry-run"])
    known_action(action)
    place, console = workspace_at(workspace).on(stack), Console()
    if undo:
        done = undo_action(place, action, target)
        if not done:
            raise ActionRefusedError(f"no {action} of {target} lasts")
        for line in done:
            console.say(line)
        return
    runtime = running(place.stack)
    if dry_run:
        refused = refusal(runtime, action, target)
        if refused is not None:
            raise ActionRefusedError(f"{action} of {target}: {refused}")
        console.say(f"{action} of {target} can be done")
        return
    journal = carry_out(runtime, place, action, target, case or f"manual-{time.time_ns()}")
    console.say(f"{journal.phrase}: {'lasts' if journal.open else 'done'}")
