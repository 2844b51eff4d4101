"""``rcarena calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.errors import ParamsError

if TYPE_CHECKING:
    from tasks.case import Case


def calibrate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Workspaces, or folders of recorded cases; their baselines are used."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the calibration goes; deploy.calibration names it."),
    ] = Path("calibration.yaml"),
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME|FILE", help="Calibration for what the cases do not show."),
    ] = None,
) -> None:
    """Fit the constants of the simulated backend to recorded cases."""
    from tasks.backends import find
    from tasks.backends.base import backends_with
    from tasks.system.durable import write_durably

    cases = recorded_cases(folders)
    (backend,) = backends_with("calibrate")
    answer = find(backend).calibrate(cases, base, out.stem)
    write_durably(out, answer.text.encode())
    typer.echo(f"{out}: fitted to {answer.document['requests']} requests of {len(cases)} cases")
    for law, explained in answer.document["r_squared"].items():
        typer.echo(f"  R\u00b2 of the {law}: {explained:.2f}")


def recorded_cases(folders: Sequence[Path]) -> list[Case]:
    """Return the cases of workspaces or folders of cases. Raises ParamsError when there is none."""
    from tasks.case import read_cases

    cases = [
        case for folder in folders for case in read_cases(folder / "cases" if (folder / "cases").is_dir() else folder)
    ]
    if not cases:
        raise ParamsError([f"{folder}: no finished case" for folder in folders])
    return cases
