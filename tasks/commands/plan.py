"""``rcarena plan``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, workspace_at
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.campaign.plan import CasePlan
    from tasks.params import Params


def plan(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the cases of the campaign, which are finished, and how long they take."""
    from tasks.backends import find
    from tasks.campaign.plan import plan_campaign
    from tasks.case import is_finished

    checked, place = checked_params(params), workspace_at(workspace)
    plans = [(each, is_finished(place.cases / each.case_id)) for each in plan_campaign(checked)]
    backend, windows_s = find(checked.deploy.backend), checked.campaign.windows.total_s
    case_s = backend.case_s(checked.deploy, windows_s)
    if as_json:
        rows = [
            {
                "case_id": each.case_id,
                "repetition": each.repetition,
                "seed": each.seed,
                "scenario": each.scenario,
                "load": each.load.model_dump(mode="json"),
                "injections": [injection.model_dump(mode="json") for injection in each.injections],
                "seconds": case_s,
                "finished": finished,
            }
            for each, finished in plans
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    apart = _what_tells_apart([each for each, _ in plans])
    for each, finished in plans:
        load = f"  [{each.load.summary}]" if each.load != checked.load else ""
        typer.echo(f"{each.case_id}  {'finished' if finished else 'pending '}  {each.label}{apart[each.case_id]}{load}")
    typer.echo(_what_is_there([each for each, _ in plans]))
    typer.echo(_how_long(checked, case_s, len(plans), sum(not finished for _, finished in plans)))


def _what_tells_apart(plans: Sequence[CasePlan]) -> dict[str, str]:
    """Return, by case id, the values in which the injections of cases with one label differ, such as on a ladder."""
    alike: dict[str, list[CasePlan]] = {}
    for each in plans:
        alike.setdefault(each.label, []).append(each)
    texts = {}
    for group in alike.values():
        values = [
            {(i, name): value for i, spec in enumerate(each.injections) for name, value in spec.parameters.items()}
            for each in group
        ]
        differing = [key for key in values[0] if any(other.get(key) != values[0][key] for other in values)]
        for each, own in zip(group, values, strict=True):
            said = ", ".join(f"{name} {own[i, name]}" for i, name in differing if (i, name) in own)
            texts[each.case_id] = f" ({said})" if said else ""
    return texts


def _what_is_there(plans: Sequence[CasePlan]) -> str:
    def having(role: str) -> int:
        return sum(any(injection.role == role for injection in each.injections) for each in plans)

    roots = [sum(injection.role == "root" for injection in each.injections) for each in plans]
    return (
        f"{len(plans)} cases: {roots.count(1)} with one root, {sum(count > 1 for count in roots)} with several, "
        f"{roots.count(0)} without; {having('victim')} with a victim, {having('disturbance')} with a disturbance"
    )


def _how_long(params: Params, case_s: float, cases: int, pending: int) -> str:
    from tasks.backends import find

    stacks = params.deploy.stack_count

    def together(count: int) -> str:
        minutes = math.ceil(-(-count // stacks) * case_s / 60)
        return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

    windows_s = params.campaign.windows.total_s
    on = f" on {stacks} stacks" if stacks > 1 else ""
    if find(params.deploy.backend).makes_cases():
        return (
            f"a case of {windows_s:g} s is computed in about {case_s:.0f} s, all of them in about {together(cases)}, "
            f"the pending {pending} in about {together(pending)}"
        )
    return (
        f"a case takes {windows_s:g} s and about {case_s - windows_s:g} s more, all of them about "
        f"{together(cases)}{on}, the pending {pending} about {together(pending)}; starting the stack comes on top"
    )
