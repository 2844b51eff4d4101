"""``rcarena deploy ...``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.commands.preflight import preflight
from tasks.commands.recovery import undo_faults
from tasks.console import Console
from tasks.errors import EXIT_FAILED
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.validation import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

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

    console = Console()
    backend = backend_of(checked_params(params), workspace_at(workspace))
    backend.up(console.say)
    if hold:
        backend.hold_lease(hold)
    else:
        backend.drop_lease()
    runtime = backend.live().runtime
    inside = " (inside: rcarena deploy exec)" if backend.name == "local" else ""
    console.say(f"gateway {runtime.gateway_url}, prometheus {runtime.prometheus_url}{inside}")


@deploy_app.command("render")
def deploy_render(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    directory: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where to write; default: WORKSPACE/manifests.")
    ] = None,
) -> None:
    """Write every manifest, the values of the charts and what installs them. Needs no cluster."""
    from tasks.commands import kubernetes

    deploy = kubernetes.deploy_params(params, "deploy render")
    kubernetes.render(deploy, directory or workspace_at(workspace).root / "manifests")


@deploy_app.command("plan")
def deploy_plan(params: ParamsFile = DEFAULT_PARAMS_FILE, as_json: AsJson = False) -> None:
    """Show what `deploy up` would change on the cluster (server-side dry run); exit status 2 without a cluster."""
    from tasks.commands import kubernetes

    kubernetes.plan(kubernetes.deploy_params(params, "deploy plan"), as_json)


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
    from tasks.commands import kubernetes

    kubernetes.charts(check, as_json)


@deploy_app.command("status")
def deploy_status(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """Say what runs; exit status 1 unless the stack is ready."""
    from dataclasses import asdict

    from tasks.commands import kubernetes
    from tasks.deploy.local.lifecycle import status

    place = workspace_at(workspace)
    if _is_on_a_cluster(params, place):
        kubernetes.status(kubernetes.deploy_params(params, "deploy status"), place, as_json)
        return
    found = status(place.stack)
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


@deploy_app.command("release")
def deploy_release(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Leave the stack up for whoever wants it next: undo what is left of faults, give the lease up."""
    from tasks.backends import backend_of

    place = workspace_at(workspace)
    backend = backend_of(load_params(params), place)
    undo_faults(place, typer.echo)
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
    from tasks.backends import backend_of
    from tasks.campaign.collect import take_down
    from tasks.commands import kubernetes

    loaded, place = load_params(params), workspace_at(workspace)
    if loaded.deploy.backend == "kubernetes":
        found = kubernetes.down(loaded, place, Console().say, charts=charts, volumes=volumes)
    elif charts or volumes:
        raise ParamsError([f"{params}: deploy.backend: --charts and --volumes need kubernetes (got local)"])
    else:
        found = take_down(backend_of(loaded, place))
    typer.echo("the stack is down" if found else "no stack was up")


@deploy_app.command("exec", context_settings={"ignore_unknown_options": True})
def deploy_exec(
    service: Annotated[str, typer.Argument(help="A service, or `fabric` for the side of Prometheus and the load.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, for example: ip address")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run a command inside a service: in its network namespace, or in its pod."""
    from tasks.commands import kubernetes
    from tasks.deploy.local.runtime import StackRuntime
    from tasks.deploy.runtime import running_stack
    from tasks.validation import suggest

    runtime = running_stack(workspace_at(workspace).stack)
    if not isinstance(runtime, StackRuntime):
        kubernetes.execute(runtime, service, command)
        return
    names = [each.name for each in runtime.services]
    if service not in ("fabric", *names):
        raise ParamsError([f"unknown service '{service}'; {suggest(service, ['fabric', *names])}"])
    prefix = runtime.enter_fabric() if service == "fabric" else runtime.enter_service(service)
    os.execvp(prefix[0], [*prefix, *command])  # noqa: S606 (the user's own command)


def _is_on_a_cluster(params: Path, place: Workspace) -> bool:
    """By what is published, else by the parameters, if there are any."""
    from tasks.deploy.runtime import read_runtime

    runtime = read_runtime(place.stack)
    if runtime is not None:
        return runtime.backend == "kubernetes"
    return params.exists() and load_params(params).deploy.backend == "kubernetes"


deploy_app.command("preflight")(preflight)
