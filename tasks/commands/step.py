"""``rcarena step ...``: the parts of one attempt at a case, for orchestrators that run each in a pod of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.commands.options import (
    ParamsFile,
    StackIndex,
    WorkspaceDir,
    checked_params,
    one_stack,
    planned_case,
    workspace_at,
)
from tasks.errors import EXIT_FAILED, ParamsError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.campaign.attempt import Attempt

step_app = typer.Typer(
    help="One attempt at a case in steps: prepare, then load and inject side by side, then export, then verify.",
    no_args_is_help=True,
)

EXIT_FINISHED = 99
"""Exit status of `prepare` when the case is recorded already: there is nothing to do."""

CaseId = Annotated[str, typer.Argument(help="A case id of `rcarena plan`.")]
AttemptName = Annotated[
    str, typer.Option("--attempt", metavar="NAME", help="The same for all steps; a retry needs a new one.")
]
PartnerTimeout = Annotated[
    float, typer.Option("--partner-timeout", min=1, help="Seconds to wait for the other of load and inject.")
]


def _attempt(case_id: str, name: str, stack: int | None, params: Path, workspace: Path) -> Attempt:
    from tasks.campaign.attempt import Attempt
    from tasks.console import Console

    checked = checked_params(params)
    planned = planned_case(checked, case_id)
    place = one_stack(checked, workspace_at(workspace), stack)
    try:
        place.run(case_id, name)
    except ValueError as error:
        raise ParamsError([f"--attempt: {error}"]) from error
    return Attempt(checked, place, planned, Console().say, name)


def _is_finished(case_id: str, workspace: Path) -> bool:
    from tasks.case import is_finished

    finished = is_finished(workspace_at(workspace).cases / case_id)
    if finished:
        typer.echo(f"{case_id} is finished already")
    return finished


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
    step = _attempt(case_id, attempt, stack, params, workspace)
    with experiment_lock(step.workspace):
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

    step = _attempt(case_id, attempt, stack, params, workspace)
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

    step = _attempt(case_id, attempt, stack, params, workspace)
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
    case = _attempt(case_id, attempt, stack, params, workspace).publish()
    typer.echo(f"recorded {case.path.name}: {case.record.load.requests} requests")


@step_app.command()
def verify(
    case_id: CaseId,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Exit status 0 only if no trace of a fault is left; says, too, whether the case is whole."""
    from tasks.case import validate_case
    from tasks.inject.recover import recover_fully

    checked = checked_params(params)
    place = one_stack(checked, workspace_at(workspace), stack)
    planned_case(checked, case_id)
    recover_fully(place, typer.echo)
    broken = validate_case(place.cases / case_id)
    typer.echo("\n".join(f"{case_id}: {line}" for line in broken) or f"{case_id}: recorded, no fault is left")
    if broken:
        raise typer.Exit(EXIT_FAILED)
