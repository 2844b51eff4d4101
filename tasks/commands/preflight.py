"""``rcarena preflight``."""

from __future__ import annotations

import json

import typer

from tasks.commands.errors import fail
from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.errors import EXIT_FAILED
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.workspace import DEFAULT_WORKSPACE


def preflight(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """Say what this machine, or the cluster, lacks for the stack, and what to do.

    Exit status 1 when something is missing, 2 when there is no cluster or it cannot be reached.
    """
    from tasks.commands import kubernetes
    from tasks.deploy.local.preflight import problems

    if load_params(params).deploy.backend == "kubernetes":
        deploy = kubernetes.deploy_params(params, "preflight")
        kubernetes.preflight(load_params(params), deploy, workspace_at(workspace), as_json)
        return
    checked_params(params)
    found = problems()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    if found:
        fail("\n".join(found), EXIT_FAILED)
    if not as_json:
        typer.echo("this machine can run the local stack")
