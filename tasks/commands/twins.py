"""``rcarena twins``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import ParamsError


def twins(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Workspaces, or folders of recorded cases.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Workspace for the twins.")] = Path("twins"),
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="NAME|FILE", help="Constants of the simulation.")
    ] = "local-toy",
) -> None:
    """Simulate recorded cases again: same windows, load and faults. For `validity`."""
    from tasks.backends import find
    from tasks.backends.base import backends_with
    from tasks.commands.calibrate import recorded_cases
    from tasks.console import Console

    cases, console = recorded_cases(folders), Console()
    if any(case.path.resolve().parent == (out / "cases").resolve() for case in cases):
        raise ParamsError([f"--out: {out} holds the cases themselves, which their twins would replace"])
    (backend,) = backends_with("make_twin")
    made = []
    with console.progress("twins", len(cases)) as advance:
        for case in cases:
            made.append(find(backend).make_twin(case, calibration, out / "cases"))
            advance(1)
    left_out = made.count(None)
    console.say(f"{out}: {len(made) - left_out} twins" + f", {left_out} of kinds not simulated" * (left_out > 0))
