"""Options that several commands take, and what they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.errors import ParamsError
from tasks.params import Params, load_params
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.campaign.plan import CasePlan

ParamsFile = Annotated[
    Path, typer.Option("--params", metavar="FILE", help="Parameters of the campaign.", show_default=True)
]
WorkspaceDir = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Where the campaign keeps its files.", show_default=True)
]
KeepStack = Annotated[bool, typer.Option("--keep-stack", help="Leave the stack up at the end.")]
MakingWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Processes that make simulated cases; default: one per CPU at most."
    ),
]
StackIndex = Annotated[
    int | None, typer.Option("--stack", metavar="I", min=0, help="One of several stacks (deploy.stacks), from 0.")
]
CasesDir = Annotated[Path | None, typer.Option("--cases", metavar="DIR", help="Where the cases are, if elsewhere.")]
RepositoryDir = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="A clone of the results repository.", show_default=True)
]
Branch = Annotated[str, typer.Option("--branch", help="Where campaigns are recorded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

DEFAULT_BRANCH = "results"


def checked_params(path: Path) -> Params:
    """Return the parameters in ``path``. Raises ParamsError when they cannot be used."""
    from tasks.commands.check import check_params

    params = load_params(path)
    check_params(params, str(path))
    return params


def planned_case(params: Params, case_id: str) -> CasePlan:
    """Return the plan of a case. Raises ParamsError when the campaign has no such case."""
    (plan,) = planned_cases(params, [case_id])
    return plan


def planned_cases(params: Params, case_ids: Sequence[str]) -> list[CasePlan]:
    """Return the plans of cases, each once. Raises ParamsError when the campaign lacks one."""
    from tasks.campaign.plan import plan_campaign

    plans = {each.case_id: each for each in plan_campaign(params)}
    unknown = [case_id for case_id in case_ids if case_id not in plans]
    if unknown:
        close = difflib.get_close_matches(unknown[0], plans, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ParamsError([f"unknown case '{unknown[0]}'; {hint}`rcarena plan` lists the {len(plans)} there are"])
    return [plans[case_id] for case_id in dict.fromkeys(case_ids)]


def chosen_stacks(params: Params, place: Workspace, index: int | None) -> tuple[Workspace, ...]:
    """Return ``place`` as each stack of ``params`` uses it, or as stack ``index`` does. Raises ParamsError: no such."""
    from tasks.backends import stacks_of

    places = stacks_of(params, place)
    if index is None:
        return places
    if index >= len(places):
        there = "the only stack is 0" if len(places) == 1 else f"the stacks are 0 to {len(places) - 1}"
        raise ParamsError([f"--stack {index}: {there}"])
    return (places[index],)


def one_stack(params: Params, place: Workspace, index: int | None) -> Workspace:
    """Return ``place`` as stack ``index`` uses it; None: the only one. Raises ParamsError when there are several."""
    places = chosen_stacks(params, place, index)
    if len(places) > 1:
        raise ParamsError([f"--stack: is needed, there are {len(places)} stacks (0 to {len(places) - 1})"])
    return places[0]


def workspace_at(root: Path) -> Workspace:
    """Return the workspace in the folder ``root``. Raises ParamsError when it cannot be used."""
    if root.exists() and not root.is_dir():
        raise ParamsError([f"--workspace: {root} is not a directory"])
    if any(character in str(root.resolve()) for character in '"$\n\\'):
        raise ParamsError([f"--workspace: {root.resolve()} must not contain quotes, $, backslashes or line breaks"])
    try:
        str(root.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ParamsError([f"--workspace: {str(root.resolve())!r} must be a path in UTF-8"]) from error
    return Workspace(root.resolve())
