"""``rcarena performance``."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import AsJson, WorkspaceDir
from tasks.errors import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE


def performance(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER]...", help="Workspaces, or quoted patterns of them; default: --workspace."),
    ] = None,
    as_json: AsJson = False,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Throughput, latency and TTFT of the fault-free cases of each workspace, side by side."""
    from dataclasses import asdict

    from tasks.report.performance import read_sweep, show

    sweep = read_sweep(_expanded(folders) if folders else [workspace])
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in sweep], indent=1))
    else:
        show(sweep)


def _expanded(patterns: list[str]) -> list[Path]:
    """Return the folders that match ``patterns``. Raises ParamsError when a pattern matches none."""
    found = {
        pattern: sorted(Path(each) for each in glob.glob(pattern) if Path(each).is_dir())  # noqa: PTH207 (absolute)
        for pattern in patterns
    }
    missing = [f"{pattern}: no such folder" for pattern, each in found.items() if not each]
    if missing:
        raise ParamsError(missing)
    return list(dict.fromkeys(each for several in found.values() for each in several))
