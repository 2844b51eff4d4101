"""The folder ``cases`` of a workspace: every usable case that the parameters ask for, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.campaign.errors import CampaignError
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.case import is_finished, read_case, validate_case
from tasks.console import Console
from tasks.identity import differences
from tasks.params import Params
from tasks.system.file_lock import FileLock
from tasks.text import some
from tasks.workspace import Workspace


def campaign_lock(workspace: Workspace) -> FileLock:
    """Keep other campaigns out of the workspace while held. Entering raises CampaignError when another holds it."""
    return FileLock(workspace.root / ".campaign.lock", CampaignError(f"another campaign runs in {workspace.root}"))


def settle_cases(params: Params, workspace: Workspace, console: Console) -> None:
    """Make the folder ``cases`` hold every usable case that ``params`` ask for, and no other.

    Raises:
        CampaignError: a campaign runs in the workspace.
    """
    workspace.cases.mkdir(parents=True, exist_ok=True)
    with campaign_lock(workspace):
        settle(workspace, plan_campaign(params), console)


def settle(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    set_aside(workspace, plans, console)
    bring_back(workspace, plans, console)


def set_aside(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    """Move cases that the parameters no longer ask for, and damaged ones, to ``superseded``. Nothing is deleted."""
    wanted = {plan.case_id: plan for plan in plans}
    for path in sorted(workspace.cases.iterdir()):
        if path.name.endswith(".partial"):
            shutil.rmtree(path)
            continue
        if path.name.startswith(".") or not path.is_dir():
            continue
        if path.name not in wanted:
            if _is_incident(path):
                continue
            reason = "not asked for by the present parameters"
        elif problem := _unusable(path, wanted[path.name]):
            reason = problem
        else:
            continue
        workspace.superseded.mkdir(parents=True, exist_ok=True)
        target = next(
            candidate
            for number in range(1, 10_000)
            if not (candidate := workspace.superseded / f"{path.name}.{number}").exists()
        )
        path.rename(target)
        console.say(f"collect: {path.name} set aside in {workspace.superseded} ({reason})")


def bring_back(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    """Move usable cases that are asked for again from ``superseded`` back to ``cases``."""
    aside: dict[str, list[Path]] = {}
    for path in sorted(workspace.superseded.glob("*")):
        aside.setdefault(path.name.rpartition(".")[0], []).append(path)
    for plan in plans:
        target = workspace.cases / plan.case_id
        candidates = aside.get(plan.case_id, []) if not target.exists() else []
        usable = next((path for path in candidates if not _unusable(path, plan)), None)
        if usable is not None:
            usable.rename(target)
            console.say(f"collect: {plan.short_label} was recorded before: {usable.name} is used again")


def _is_incident(path: Path) -> bool:
    """Return whether nobody planned the case: a labelled incident belongs to the campaign that it joined."""
    return is_finished(path) and not validate_case(path) and read_case(path).record.kind == "incident"


def _unusable(path: Path, plan: CasePlan) -> str | None:
    """Say why the case in ``path`` cannot stand for ``plan``: it is damaged, or was recorded with other defaults."""
    if problems := validate_case(path):
        return problems[0]
    others = differences(read_case(path).record.parameters, plan.parameters)
    return f"recorded with {some(others)}" if others else None
