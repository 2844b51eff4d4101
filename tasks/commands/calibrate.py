"""``rcarena calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import ParamsError


def calibrate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Workspaces, or folders of recorded cases; their baselines are used."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the calibration goes; deploy.calibration names it."),
    ] = Path("calibration.yaml"),
    twins: Annotated[
        Path | None,
        typer.Option(
            "--twins", metavar="DIR", help="Also simulate every case again, into this workspace: see `validity`."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME|FILE", help="Calibration for what the cases do not show."),
    ] = None,
) -> None:
    """Fit the constants of the simulated backend to recorded cases."""
    from tasks.backends import find
    from tasks.backends.base import backends_with
    from tasks.case import read_cases
    from tasks.system.durable import write_durably

    cases = [
        case for folder in folders for case in read_cases(folder / "cases" if (folder / "cases").is_dir() else folder)
    ]
    if not cases:
        raise ParamsError([f"{folder}: no finished case" for folder in folders])
    (backend,) = backends_with("calibrate")
    answer = find(backend).calibrate(cases, base, out.stem)
    write_durably(out, answer.text.encode())
    typer.echo(f"{out}: fitted to {answer.document['requests']} requests of {len(cases)} cases")
    for law, explained in answer.document["r_squared"].items():
        typer.echo(f"  R\u00b2 of the {law}: {explained:.2f}")
    if twins is not None:
        made = [find(backend).make_twin(case, str(out), twins / "cases") for case in cases]
        left_out = made.count(None)
        typer.echo(f"{twins}: {len(made) - left_out} twins" + f", {left_out} of kinds not simulated" * (left_out > 0))
