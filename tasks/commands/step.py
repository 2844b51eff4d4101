"""``rcarena step ...``: the parts of one attempt at a case, for orchestrators that run each in a pod of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.commands.options import (
    ParamsFile,
    StackIndex,
    WorkspaceDir,
    checked_params,
    chosen_stacks,
    planned_case,
    planned_cases,
    workspace_at,
)
from tasks.errors import EXIT_FAILED, ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from tasks.campaign.attempt import Attempt
    from tasks.params import Params

step_app = typer.Typer(
    help="One attempt at a case in steps: claim a stack, prepare, load and inject side by side, export, verify.",
    no_args_is_help=True,
)

EXIT_FINISHED = 99
"""Exit status of `claim` and `prepare` when the case is recorded already: there is nothing to do."""

CaseId = Annotated[str, typer.Argument(help="A case id of `rcarena plan`.")]
AttemptName = Annotated[
    str, typer.Option("--attempt", metavar="NAME", help="The same for all steps; a retry needs a new one.")
]
Hold = Annotated[
    int, typer.Option("--hold", metavar="SECONDS", min=0, help="Keep other workspaces off the stack for so long.")
]
PartnerTimeout = Annotated[
    float, typer.Option("--partner-timeout", min=1, help="Seconds to wait for the other of load and inject.")
]


@contextlib.contextmanager
def _attempt(case_id: str, name: str, stack: int | None, params: Path, workspace: Path) -> Iterator[Attempt]:
    """Yield the attempt on its stack, whose hold is renewed meanwhile."""
    from tasks.campaign.attempt import Attempt
    from tasks.campaign.holders import place_of, renewing
    from tasks.console import Console

    checked, places = _checked(case_id, name, stack, params, workspace)
    place = place_of(places, case_id, name) if stack is None else places[0]
    with renewing(place, case_id, name):
        yield Attempt(checked, place, planned_case(checked, case_id), Console().say, name)


def _checked(
    case_id: str, name: str, stack: int | None, params: Path, workspace: Path
) -> tuple[Params, tuple[Workspace, ...]]:
    """Return the parameters, and the stacks that the attempt may be on. Raises ParamsError."""
    checked = checked_params(params)
    planned_case(checked, case_id)
    places = chosen_stacks(checked, workspace_at(workspace), stack)
    try:
        places[0].run(case_id, name)
    except ValueError as error:
        raise ParamsError([f"--attempt: {error}"]) from error
    return checked, places


def _is_finished(case_id: str, workspace: Path) -> bool:
    from tasks.case import is_finished

    finished = is_finished(workspace_at(workspace).cases / case_id)
    if finished:
        typer.echo(f"{case_id} is finished already")
    return finished


@step_app.command()
def claim(
    case_id: CaseId,
    attempt: AttemptName = "local",
    hold: Hold = 0,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Wait for a free stack, take it for the attempt, and find it up or bring it up.

    The other steps of the attempt find it. `verify` gives it back; an attempt that is lost loses it after half an hour.
    Exit status 99: the case is recorded already.
    """
    from tasks.campaign.holders import claim_stack
    from tasks.console import Console

    if _is_finished(case_id, workspace):
        raise typer.Exit(EXIT_FINISHED)
    checked, places = _checked(case_id, attempt, stack, params, workspace)
    place = claim_stack(checked, places, case_id, attempt, hold, Console().say)
    if place.stack_index is not None:
        typer.echo(f"{case_id} is on stack {place.stack_index}")


@step_app.command()
def prepare(
    case_id: CaseId,
    attempt: AttemptName = "local",
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Undo what earlier faults left, wait for a steady stack, make room for the attempt.

    Exit status 99: the case is recorded already.
    """
    from tasks.campaign.attempt import experiment_lock

    if _is_finished(case_id, workspace):
        raise typer.Exit(EXIT_FINISHED)
    with _attempt(case_id, attempt, stack, params, workspace) as step, experiment_lock(step.workspace):
        step.prepare()


@step_app.command()
def load(
    case_id: CaseId,
    attempt: AttemptName = "local",
    partner_timeout: PartnerTimeout = 600,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Drive the stack for the whole attempt, from the moment when `step inject` is there, too.

    A load that was lost before that moment can be started again; one that was lost later has spoiled the attempt.
    """
    from tasks.campaign.attempt import stop_load

    with _attempt(case_id, attempt, stack, params, workspace) as step:
        if step.is_done("load"):
            typer.echo(f"the load of attempt {attempt} is done already")
            return
        schedule = step.agree_on_start("load", partner_timeout)
        generator = step.start_load(schedule)
        try:
            step.await_load(generator, schedule)
        finally:
            stop_load(generator)


@step_app.command()
def inject(
    case_id: CaseId,
    attempt: AttemptName = "local",
    partner_timeout: PartnerTimeout = 600,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Carry out the case's faults at their times, from the moment when `step load` is there, too."""
    from tasks.campaign.attempt import experiment_lock

    with _attempt(case_id, attempt, stack, params, workspace) as step:
        if step.is_done("inject"):
            typer.echo(f"the injection of attempt {attempt} is done already")
            return
        with experiment_lock(step.workspace):
            step.inject(step.agree_on_start("inject", partner_timeout))


@step_app.command()
def export(
    case_id: CaseId,
    attempt: AttemptName = "local",
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Save the telemetry of the attempt and publish the case."""
    if _is_finished(case_id, workspace):
        return
    with _attempt(case_id, attempt, stack, params, workspace) as step:
        case = step.publish()
    typer.echo(f"recorded {case.path.name}: {case.record.load.requests} requests")


@step_app.command()
def verify(
    case_id: CaseId,
    attempt: AttemptName = "local",
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Give the stack back. Exit status 0 only if no trace of a fault is left there and the case is whole.

    A stack with a trace of a fault is not given back: others have it after half an hour.
    """
    from tasks.campaign.errors import AttemptError
    from tasks.campaign.holders import give_back, place_of, renewing
    from tasks.case import validate_case
    from tasks.inject.recover import recover_fully

    _, places = _checked(case_id, attempt, stack, params, workspace)
    try:
        place = place_of(places, case_id, attempt) if stack is None else places[0]
    except AttemptError as error:
        typer.echo(f"{error}: nothing to undo there")
    else:
        with renewing(place, case_id, attempt):
            recover_fully(place, typer.echo)
        give_back(place, case_id, attempt)
    broken = validate_case(places[0].cases / case_id)
    typer.echo("\n".join(f"{case_id}: {line}" for line in broken) or f"{case_id}: recorded, no fault is left")
    if broken:
        raise typer.Exit(EXIT_FAILED)


@step_app.command()
def make(
    case_ids: Annotated[list[str], typer.Argument(metavar="CASE_ID...", help="Case ids of `rcarena plan`.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that make cases.")] = 1,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Make cases, on a backend that computes them; those that are there stay as they are.

    Killed at any moment it leaves whole cases, and the same command makes the others.
    """
    from tasks.backends import find
    from tasks.backends.base import backends_with
    from tasks.campaign.make import make_cases
    from tasks.console import Console

    checked = checked_params(params)
    if not find(checked.deploy.backend).makes_cases():
        able = " or ".join(backends_with("make_case"))
        raise ParamsError([f"deploy.backend: `step make` needs {able} (got {checked.deploy.backend})"])
    plans = planned_cases(checked, case_ids)
    with contextlib.closing(make_cases(checked, workspace_at(workspace), plans, Console(), workers)) as made:
        lost = [each.plan.short_label for each in made if each.problem]
    typer.echo(f"{len(plans) - len(lost)} of {len(plans)} cases are there")
    if lost:
        raise typer.Exit(EXIT_FAILED)
