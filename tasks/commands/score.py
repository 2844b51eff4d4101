"""``rcarena score``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasks.commands.options import ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.score.campaign import OpenPool


def score(
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every pair again, also those that are kept.")] = False,
    engine: Annotated[
        Literal["process", "ray"], typer.Option("--engine", help="Where the pairs run: here, or on a Ray cluster.")
    ] = "process",
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="ADDRESS", help="auto, HOST:PORT, ray://HOST:PORT, or local (default)."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pairs at once; default: one per CPU of this engine.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="METHOD", help="Run this method and keep its rankings; write no scores."),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Let every method rank the suspects of every case, and score the rankings.

    Killed or interrupted, the same command goes on where it stopped.
    """
    if ray_address is not None and engine != "ray":
        raise ParamsError(["--ray-address: needs --engine ray"])
    if only is not None and engine == "ray":
        raise ParamsError(["--only: not with --engine ray"])
    from tasks.console import Console
    from tasks.score.stage import rank_workspace, score_workspace

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    if only is not None:
        rank_workspace(checked, place, console, only, fresh=fresh, workers=workers)
        return
    open_pool = _on_ray(ray_address, workers) if engine == "ray" else None
    result = score_workspace(checked, place, console, fresh=fresh, workers=workers, open_pool=open_pool)
    console.show(result.text())


def _on_ray(address: str | None, workers: int | None) -> OpenPool:
    from tasks.rca.run.ray_pool import RayPool

    return lambda limits: RayPool(limits, address, workers)
