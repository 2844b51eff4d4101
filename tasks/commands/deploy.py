"""``rcarena deploy ...``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.answers import show, usable_backend
from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.commands.preflight import preflight
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.workspace import DEFAULT_WORKSPACE

deploy_app = typer.Typer(help="Bring the stack up and down.", no_args_is_help=True)


@deploy_app.command("up")
def deploy_up(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    hold: Annotated[
        int,
        typer.Option("--hold", metavar="SECONDS", min=0, help="Keep other workspaces off the stack for so long."),
    ] = 0,
) -> None:
    """Bring the stack up (or find it up); done when a completion came back through the gateway."""
    from tasks.backends import backend_of
    from tasks.console import Console

    console = Console()
    backend = backend_of(checked_params(params), workspace_at(workspace))
    backend.up(console.say)
    if hold:
        backend.hold_lease(hold)
    else:
        backend.drop_lease()
    console.say(backend.live().addresses())


@deploy_app.command("render")
def deploy_render(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    directory: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where to write; default: WORKSPACE/manifests.")
    ] = None,
) -> None:
    """Write every manifest, the values of the charts and what installs them. Needs no cluster."""
    place = workspace_at(workspace)
    for file in usable_backend(params, place).render(directory or place.root / "manifests"):
        typer.echo(str(file))


@deploy_app.command("plan")
def deploy_plan(params: ParamsFile = DEFAULT_PARAMS_FILE, as_json: AsJson = False) -> None:
    """Show what `deploy up` would change on the cluster (server-side dry run); exit status 2 without a cluster."""
    show(usable_backend(params, workspace_at(DEFAULT_WORKSPACE)).plan(), as_json)


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
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """Say what runs; exit status 1 unless the stack is ready."""
    from tasks.backends import DEFAULT, find, published

    place = workspace_at(workspace)
    runtime = published(place.stack)
    given = None
    if params.exists():
        try:
            given = load_params(params).deploy
        except ParamsError:
            if runtime is None:
                raise
    name = runtime.backend if runtime else given.backend if given else DEFAULT
    deploy = given if given and given.backend == name else None
    show(find(name).status(place, deploy), as_json)


@deploy_app.command("release")
def deploy_release(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Leave the stack up for whoever wants it next: undo what is left of faults, give the lease up."""
    from tasks.backends import backend_of
    from tasks.inject.recover import recover_fully

    place = workspace_at(workspace)
    backend = backend_of(load_params(params), place)
    recover_fully(place, typer.echo)
    backend.drop_lease()
    typer.echo("no fault is left; the stack stays up" if backend.is_up() else "no stack is up")


@deploy_app.command("down")
def deploy_down(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    charts: Annotated[bool, typer.Option("--charts", help="Uninstall the Helm charts, too (kubernetes).")] = False,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete the volumes with results and weights, too (kubernetes).")
    ] = False,
) -> None:
    """End the stack and remove everything it left outside the workspace."""
    from tasks.backends import BACKENDS, backend_of
    from tasks.campaign.collect import take_down
    from tasks.console import Console

    backend = backend_of(load_params(params), workspace_at(workspace))
    also = [name for name, wanted in {"charts": charts, "volumes": volumes}.items() if wanted]
    for each in also:
        if each not in backend.removable:
            able = " or ".join(name for name, other in BACKENDS.all().items() if each in other.removable)
            raise ParamsError([f"{params}: deploy.backend: --{each} needs {able} (got {backend.name})"])
    typer.echo("the stack is down" if take_down(backend, Console().say, also) else "no stack was up")


@deploy_app.command("exec", context_settings={"ignore_unknown_options": True})
def deploy_exec(
    service: Annotated[str, typer.Argument(help="A service, or `fabric` for the side of Prometheus and the load.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, for example: ip address")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run a command inside a service: in its network namespace, or in its pod."""
    from tasks.backends import find, running

    runtime = running(workspace_at(workspace).stack)
    program = find(runtime.backend).command_in(runtime, service, command)
    os.execvp(program[0], program)  # noqa: S606 (the user's own command)


deploy_app.command("preflight")(preflight)
