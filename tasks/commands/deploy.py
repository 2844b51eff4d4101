"""``rcarena deploy ...`` and ``rcarena preflight``."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from tasks.commands.errors import EXIT_FAILED, fail, stage
from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.console import Console
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.validation import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE

deploy_app = typer.Typer(help="Bring the stack up and down.", no_args_is_help=True)


@deploy_app.command("up")
@stage
def deploy_up(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Bring the stack up (or find it up); done when a completion came back through the gateway."""
    from tasks.deploy.local.lifecycle import drop_lease, up

    place, console = workspace_at(workspace), Console()
    runtime = up(checked_params(params).deploy, place.stack, console.say)
    drop_lease(place.stack)
    console.say(f"gateway {runtime.gateway_url}, prometheus {runtime.prometheus_url} (inside: rcarena deploy exec)")


@deploy_app.command("status")
@stage
def deploy_status(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """Say what runs; exit status 1 unless the stack is ready."""
    from dataclasses import asdict

    from tasks.deploy.local.lifecycle import status

    found = status(workspace_at(workspace).stack)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        typer.echo(f"{found.state}: {found.detail}")
        for service in found.services:
            quota = "no quota" if service.cpu_cores is None else f"{service.cpu_cores:g} cores"
            typer.echo(
                f"  {service.name:<18} {service.role:<8} {service.address:<12} "
                f"{service.processes:>3} processes  {quota:<10} {service.memory_mb:6.0f} MB"
            )
    if found.state != "ready":
        raise typer.Exit(EXIT_FAILED)


@deploy_app.command("down")
@stage
def deploy_down(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """End the stack and remove everything it left outside the workspace."""
    from tasks.backends.base import backend_of
    from tasks.campaign import take_down

    backend = backend_of(load_params(params), workspace_at(workspace))
    typer.echo("the stack is down" if take_down(backend) else "no stack was up")


@deploy_app.command("exec", context_settings={"ignore_unknown_options": True})
@stage
def deploy_exec(
    service: Annotated[str, typer.Argument(help="A service, or `fabric` for the side of Prometheus and the load.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, for example: ip address")],
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run a command inside a service's network namespace."""
    from tasks.deploy.local.runtime import running_stack
    from tasks.validation import suggest

    runtime = running_stack(workspace_at(workspace).stack)
    names = [each.name for each in runtime.services]
    if service not in ("fabric", *names):
        raise ParamsError([f"unknown service '{service}'; {suggest(service, ['fabric', *names])}"])
    prefix = runtime.enter_fabric() if service == "fabric" else runtime.enter_service(service)
    os.execvp(prefix[0], [*prefix, *command])  # noqa: S606 (the user's own command)


@stage
def preflight(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Say what this machine lacks for the local stack, and what to do; exit status 1 when something is missing."""
    from tasks.deploy.local.preflight import problems

    checked_params(params)
    found = problems()
    if found:
        fail("\n".join(found), EXIT_FAILED)
    typer.echo("this machine can run the local stack")
