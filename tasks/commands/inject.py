"""``rcarena inject``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.commands.options import ParamsFile, StackIndex, WorkspaceDir, checked_params, one_stack, workspace_at
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, Params
from tasks.workspace import DEFAULT_WORKSPACE, Workspace
from tasks.yaml_core import YamlError, load

if TYPE_CHECKING:
    from tasks.console import Console


def inject(
    kind: Annotated[str | None, typer.Argument(help="A fault kind of `rcarena faults`.")] = None,
    target: Annotated[str | None, typer.Argument(help="The service to break.")] = None,
    duration: Annotated[float, typer.Option("--duration", min=1, max=86_400, help="Seconds.")] = 30,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the fault; repeatable.")
    ] = None,
    recover_only: Annotated[
        bool, typer.Option("--recover", help="Undo every fault that is still there, and say what was found.")
    ] = False,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Break one service of the running stack for a while, or undo what is left of faults (--recover)."""
    from tasks.console import Console

    place, console = workspace_at(workspace), Console()
    if recover_only:
        if kind is not None or parameter:
            raise ParamsError(["--recover: takes no fault kind, target or parameter"])
        _recover(place, stack, console)
        return
    if kind is None or target is None:
        raise ParamsError(["give a fault kind and a target, or --recover"])
    checked = checked_params(params)
    place = one_stack(checked, place, stack)
    _inject_once(checked, place, console, kind, target, duration, _assignments(parameter or []))


def _recover(place: Workspace, stack: int | None, console: Console) -> None:
    """Undo the faults of every stack that has files in the workspace, or of one. Raises FaultError when one is left."""
    from tasks.inject.errors import FaultError
    from tasks.inject.recover import recover_fully

    left = []
    for each in place.on_disk():
        if stack not in (None, each.stack_index or 0):
            continue
        try:
            recover_fully(each, console.say)
        except FaultError as error:
            left.append(str(error) if each.stack_index is None else f"stack {each.stack_index}: {error}")
    if left:
        raise FaultError("\n".join(left))
    console.say("no fault is left")


def _inject_once(
    params: Params,
    place: Workspace,
    console: Console,
    kind: str,
    target: str,
    duration_s: float,
    parameters: dict[str, Any],
) -> None:
    import time
    from datetime import UTC, datetime, timedelta

    from tasks.backends import backend_of
    from tasks.campaign.attempt import experiment_lock
    from tasks.inject.catalogue import resolve_parameters, validate_injection
    from tasks.inject.start import LEAD_S, start_injection
    from tasks.injection import InjectionSpec

    backend = params.deploy.backend
    problems = validate_injection(kind, target, parameters, params.deploy.roles(), "inject.target", backend=backend)
    if problems:
        raise ParamsError(problems)
    stack = backend_of(params, place).live()
    stack.enter()
    resolved = resolve_parameters(kind, parameters, backend).model_dump(mode="json")
    planned = InjectionSpec(kind=kind, target=target).planned(duration_s, resolved)
    console.say(f"{planned} for {duration_s:g} s; Ctrl-C undoes it at once")
    injection_id, start = f"manual-{time.time_ns()}", datetime.now(UTC) + timedelta(seconds=LEAD_S)
    with (
        experiment_lock(place),
        start_injection(stack.runtime, place, planned, injection_id=injection_id, window_start=start) as handle,
    ):
        injection = handle.wait()
    console.say(f"{injection.verdict}: {injection.reason}")


def _assignments(pairs: list[str]) -> dict[str, Any]:
    """Values are read as in a file of parameters; what is no YAML is a word.

    Raises:
        ParamsError: not NAME=VALUE, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ParamsError([f"--set {pair}: must be NAME=VALUE"])
        if name in values:
            raise ParamsError([f"--set {pair}: {name} is given twice"])
        try:
            values[name] = load(text)
        except YamlError:
            values[name] = text
    return values
