"""``rcarena label``."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.commands.diagnose import case_folder, moment
from tasks.commands.options import WorkspaceDir, workspace_at
from tasks.errors import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE


def label(
    case: Annotated[str, typer.Argument(metavar="CASE", help="An incident: its name, or its folder.")],
    root: Annotated[
        list[str] | None, typer.Option("--root", metavar="SERVICE", help="What broke; again for a further root.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="How, a kind of `rcarena faults`, or unknown.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Nothing was broken: a false alarm.")] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it began, if not at the change; ISO 8601, UTC.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="In your own words.")] = "",
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Say what an incident was: it becomes a case of the campaign in the workspace. The last label counts."""
    from tasks.case import read_case
    from tasks.console import Console
    from tasks.diagnose.label import label as label_case

    roots, kinds = root or [], kind or []
    if none == bool(roots):
        raise ParamsError(["--root or --none: give one of them"])
    if len(roots) != len(kinds):
        raise ParamsError([f"--kind: is needed once for each --root ({len(roots)} roots, {len(kinds)} kinds)"])
    place = workspace_at(workspace)
    found = read_case(case_folder(case, place))
    when = None if at is None else moment(at, "--at")
    done = label_case(found, list(zip(roots, kinds, strict=True)), place.cases, at=when, note=note)
    said = "; ".join(each.phrase for each in done.record.injections) or "no root"
    before = len(done.record.labels) - 1
    history = f" ({before} earlier label{'s' * (before > 1)} kept)" if before else ""
    Console().show(f"{done.record.case_id}: {said}{history}; {done.path}")
