"""``rcarena deploy ...``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.commands.answers import show, together, usable_backends
from tasks.commands.options import (
    AsJson,
    ParamsFile,
    StackIndex,
    WorkspaceDir,
    checked_params,
    chosen_stacks,
    workspace_at,
)
from tasks.commands.preflight import preflight
from tasks.deploy.errors import DeployError
from tasks.errors import ParamsError, RCArenaError
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from tasks.backends.base import Answer
    from tasks.console import Console
    from tasks.params import Params

deploy_app = typer.Typer(help="Bring the stack up and down.", no_args_is_help=True)


@deploy_app.command("up")
def deploy_up(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    hold: Annotated[
        int,
        typer.Option("--hold", metavar="SECONDS", min=0, help="Keep other workspaces off the stack for so long."),
    ] = 0,
    stack: StackIndex = None,
) -> None:
    """Bring the stack up (or find it up); done when a completion came back through the gateway.

    Several stacks come up side by side.
    """
    from tasks.backends import backend_of
    from tasks.console import Console
    from tasks.system.side_by_side import run_side_by_side

    console, checked = Console(), checked_params(params)
    places = chosen_stacks(checked, workspace_at(workspace), stack)
    if len(places) == 1:
        backend_of(checked, places[0]).up_for(hold, console.say)
        return
    place = ["--params", str(params), "--workspace", str(workspace), "--hold", str(hold)]
    commands = {
        f"stack {each.stack_index}": ["deploy", "up", "--stack", str(each.stack_index), *place] for each in places
    }
    statuses = run_side_by_side(commands, console.say)
    down = [name for name, status in statuses.items() if status]
    if down:
        raise DeployError(f"not up: {', '.join(down)}; see what each said above")


@deploy_app.command("render")
def deploy_render(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    directory: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where to write; default: WORKSPACE/manifests.")
    ] = None,
    stack: StackIndex = None,
) -> None:
    """Write every manifest, the values of the charts and what installs them. Needs no cluster.

    Of several stacks each has a folder.
    """
    place = workspace_at(workspace)
    backends = usable_backends(params, place, stack)
    for backend in backends:
        index = backend.workspace.stack_index
        folder = directory or place.root / "manifests"
        for file in backend.render(folder if len(backends) == 1 else folder / str(index)):
            typer.echo(str(file))


@deploy_app.command("plan")
def deploy_plan(params: ParamsFile = DEFAULT_PARAMS_FILE, stack: StackIndex = None, as_json: AsJson = False) -> None:
    """Show what `deploy up` would change on the cluster (server-side dry run); exit status 2 without a cluster."""
    backends = usable_backends(params, workspace_at(DEFAULT_WORKSPACE), stack)
    show(together((each.workspace, each.plan()) for each in backends), as_json)


@deploy_app.command("charts")
def deploy_charts(
    check: Annotated[
        bool, typer.Option("--check", help="Ask every repository whether its pinned version is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the Helm charts that a stack on Kubernetes can need, in their pinned versions. Needs no cluster.

    With --check the exit status is 1 when a version is not there, or a repository cannot be asked.
    """
    from tasks.backends import BACKENDS
    from tasks.backends.base import Answer

    answers = [answer for backend in BACKENDS.all().values() if (answer := backend.charts(check)) is not None]
    failed = any(answer.failure is not None for answer in answers)
    rows = [row for answer in answers for row in answer.document]
    show(Answer("\n".join(answer.text for answer in answers), rows, "" if failed else None), as_json)


@deploy_app.command("status")
def deploy_status(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    stack: StackIndex = None,
    as_json: AsJson = False,
) -> None:
    """Say what runs; exit status 1 unless every stack is ready."""
    from tasks.backends import published

    place = workspace_at(workspace)
    given = None
    if params.exists():
        try:
            given = load_params(params)
        except ParamsError:
            if published(place.on(stack).stack) is None:
                raise
    places = chosen_stacks(given, place, stack) if given else (place.on(stack),)
    show(together((each, _status(given, each)) for each in places), as_json)


def _status(params: Params | None, place: Workspace) -> Answer:
    from tasks.backends import DEFAULT, find, published

    runtime = published(place.stack)
    given = params.deploy.of_stack(place.stack_index) if params else None
    name = runtime.backend if runtime else given.backend if given else DEFAULT
    return find(name).status(place, given if given and given.backend == name else None)


@deploy_app.command("release")
def deploy_release(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    stack: StackIndex = None,
) -> None:
    """Leave the stack up for whoever wants it next: undo what is left of faults, give the lease up."""
    from tasks.backends import backend_of
    from tasks.campaign.holders import forget
    from tasks.inject.recover import recover_fully

    loaded = load_params(params)
    for place in chosen_stacks(loaded, workspace_at(workspace), stack):
        backend = backend_of(loaded, place)
        recover_fully(place, typer.echo)
        forget(place)
        backend.drop_lease()
        typer.echo(_of(place, "no fault is left; the stack stays up" if backend.is_up() else "no stack is up"))


def _of(place: Workspace, line: str) -> str:
    """Say of which of several stacks the line is."""
    return line if place.stack_index is None else f"stack {place.stack_index}: {line}"


@deploy_app.command("down")
def deploy_down(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    charts: Annotated[bool, typer.Option("--charts", help="Uninstall the Helm charts, too (kubernetes).")] = False,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete the volumes with results and weights, too (kubernetes).")
    ] = False,
    stack: StackIndex = None,
) -> None:
    """End the stack, or every stack of this workspace, and remove everything that was left outside of it."""
    from tasks.backends import BACKENDS, find
    from tasks.console import Console

    loaded, place = load_params(params), workspace_at(workspace)
    backend = find(loaded.deploy.backend)
    also = [name for name, wanted in {"charts": charts, "volumes": volumes}.items() if wanted]
    for each in also:
        if each not in backend.removable:
            able = " or ".join(name for name, other in BACKENDS.all().items() if each in other.removable)
            raise ParamsError([f"{params}: deploy.backend: --{each} needs {able} (got {backend.name})"])
    places = chosen_stacks(loaded, place, stack)
    if stack is None:  # and those that earlier parameters had
        places += tuple(each for each in place.on_disk() if each not in places and each.stack.is_dir())
    _down(loaded, places, also, Console())


def _down(params: Params, places: Sequence[Workspace], also: Sequence[str], console: Console) -> None:
    """Take the stacks down, each whatever becomes of the others, then remove what they share."""
    from tasks.backends import backend_of
    from tasks.campaign.lease import take_down

    backends = [backend_of(params, place) for place in places]
    shared = [each for each in also if each in backends[0].shared and len(backends) > 1]
    failures = []
    for backend in backends:
        try:
            found = take_down(backend, console.say, [each for each in also if each not in shared])
        except RCArenaError as error:
            failures.append(_of(backend.workspace, str(error)))
        else:
            typer.echo(_of(backend.workspace, "the stack is down" if found else "no stack was up"))
    if failures:
        raise DeployError("\n".join(failures))
    for backend in backends if shared else ():
        backend.down(console.say, shared)


@deploy_app.command("exec", context_settings={"ignore_unknown_options": True})
def deploy_exec(
    service: Annotated[str, typer.Argument(help="A service, or `fabric` for the side of Prometheus and the load.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, for example: ip address")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    stack: StackIndex = None,
) -> None:
    """Run a command inside a service: in its network namespace, or in its pod."""
    from tasks.backends import find, running

    runtime = running(workspace_at(workspace).on(stack).stack)
    program = find(runtime.backend).command_in(runtime, service, command)
    os.execvp(program[0], program)  # noqa: S606 (the user's own command)


deploy_app.command("preflight")(preflight)
