"""A campaign: every planned case is collected. Killed at any point, it continues where it was."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.backends.base import Backend, backend_of
from tasks.case import is_finished, read_case, validate_case
from tasks.console import Console
from tasks.inject.recover import recover
from tasks.lock import sole
from tasks.params import Params
from tasks.plan import CasePlan, plan_campaign
from tasks.workspace import Workspace

ATTEMPTS_PER_CASE = 2
MAX_FAILURES_IN_A_ROW = 2
LEASE_RENEWAL_S = 5.0
CASE_STOP_TIMEOUT_S = 40.0
RESOLVED_PARAMS_FILE = "params.resolved.yaml"


class CampaignError(RuntimeError):
    """The campaign could not be completed; what was finished is kept."""


@dataclass(frozen=True)
class Collected:
    """Case ids after ``collect``: which were there already, which are new."""

    kept: tuple[str, ...]
    recorded: tuple[str, ...]


def collect(params: Params, workspace: Workspace, console: Console, *, keep_stack: bool = False) -> Collected:
    """Bring the stack up, record every case that is not finished yet, take the stack down.

    Raises:
        CampaignError: another campaign uses the workspace, or some cases failed ``ATTEMPTS_PER_CASE`` times.
        DeployError: the stack cannot be brought up.
    """
    with exclusive(workspace):
        plans = plan_campaign(params)
        workspace.cases.mkdir(parents=True, exist_ok=True)
        resolved = workspace.root / RESOLVED_PARAMS_FILE
        resolved.write_text(params.dump(), encoding="utf-8")
        _settle(workspace, plans, console)
        recover(workspace)
        pending = [plan for plan in plans if not is_finished(workspace.cases / plan.case_id)]
        kept = tuple(plan.case_id for plan in plans if plan not in pending)
        if kept:
            console.say(f"collect: {len(kept)} of {len(plans)} cases are finished already")
        if not pending:
            return Collected(kept, ())
        with _stack(params, workspace, console, keep_stack) as backend:
            recorded, failed = _record(backend, resolved, pending, console)
    if failed:
        names = ", ".join(f"{plan.label} ({plan.case_id})" for plan in failed)
        raise CampaignError(
            f"{len(failed)} of {len(plans)} cases failed: {names}. Run again to retry only what is missing; "
            "`rcarena score` and `rcarena report` use what was recorded"
        )
    return Collected(kept, tuple(plan.case_id for plan in recorded))


def settle_cases(params: Params, workspace: Workspace, console: Console) -> None:
    """Let ``cases`` hold nothing but cases that ``params`` ask for, whole ones, and every such case there is.

    Raises:
        CampaignError: a campaign runs in the workspace.
    """
    workspace.cases.mkdir(parents=True, exist_ok=True)
    with exclusive(workspace):
        _settle(workspace, plan_campaign(params), console)


def _settle(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    set_aside(workspace, plans, console)
    bring_back(workspace, plans, console)


def set_aside(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    """Move cases that the parameters no longer ask for, and damaged ones, to ``superseded``: nothing is deleted."""
    wanted = {plan.case_id for plan in plans}
    for path in sorted(workspace.cases.iterdir()):
        if path.name.endswith(".partial"):
            shutil.rmtree(path)
            continue
        if path.name.startswith(".") or not path.is_dir():
            continue
        if path.name not in wanted:
            reason = "not asked for by the present parameters"
        elif problems := validate_case(path):
            reason = problems[0]
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
    """Use whole cases that were set aside and are asked for again."""
    for plan in plans:
        target = workspace.cases / plan.case_id
        candidates = sorted(workspace.superseded.glob(f"{plan.case_id}.*")) if not target.exists() else []
        usable = next((path for path in candidates if not validate_case(path)), None)
        if usable is not None:
            usable.rename(target)
            console.say(f"collect: {plan.label} was recorded before: {usable.name} is used again")


def exclusive(workspace: Workspace) -> contextlib.AbstractContextManager[None]:
    """One campaign per workspace. Entering raises CampaignError when another has it."""
    return sole(workspace.root / ".campaign.lock", CampaignError(f"another campaign runs in {workspace.root}"))


@contextlib.contextmanager
def _stack(params: Params, workspace: Workspace, console: Console, keep: bool) -> Iterator[Backend]:
    """The stack, up and leased while the campaign lives: should it be killed, the stack ends, too."""
    backend = backend_of(params, workspace)
    try:
        backend.up(console.say)
        with _lease(backend):
            yield backend
    finally:
        if keep:
            backend.drop_lease()
            console.say("stack: kept up; end it with `rcarena deploy down`")
        else:
            console.say("stack: taking it down")
            take_down(backend)


def take_down(backend: Backend) -> bool:
    """Undo faults, then end the stack, whatever the undo says. False when there was no stack."""
    try:
        recover(backend.workspace)
    finally:
        found = backend.down()
    return found


@contextlib.contextmanager
def _lease(backend: Backend) -> Iterator[None]:
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):  # a fresh stack is clearing its directory, or the disk is full
                backend.renew_lease()
            stopped.wait(LEASE_RENEWAL_S)

    backend.renew_lease()
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _record(
    backend: Backend, resolved: Path, pending: list[CasePlan], console: Console
) -> tuple[list[CasePlan], list[CasePlan]]:
    """The cases that were recorded and those that were not; after two failures in a row the rest is not tried."""
    recorded: list[CasePlan] = []
    failed: list[CasePlan] = []
    failures_in_a_row = 0
    with console.progress("cases", len(pending)) as advance:
        for number, plan in enumerate(pending, start=1):
            console.say(f"case {number}/{len(pending)}: {plan.label}")
            if _record_case(backend, resolved, plan, console):
                recorded.append(plan)
                failures_in_a_row = 0
            else:
                failed.append(plan)
                failures_in_a_row += 1
            advance(1)
            if failures_in_a_row == MAX_FAILURES_IN_A_ROW and pending[number:]:
                console.say(
                    f"collect: {failures_in_a_row} cases failed in a row; not trying the other {len(pending) - number}"
                )
                return recorded, failed + pending[number:]
    return recorded, failed


def _record_case(backend: Backend, resolved: Path, plan: CasePlan, console: Console) -> bool:
    for attempt in range(1, ATTEMPTS_PER_CASE + 1):
        if attempt > 1:
            console.say(f"case {plan.label}: attempt {attempt}, on a fresh stack")
        _ensure_stack(backend, console, fresh=attempt > 1)
        if _run_in_process(plan, resolved, backend.workspace, console):
            return True
    return False


def _ensure_stack(backend: Backend, console: Console, *, fresh: bool) -> None:
    """A case that failed is tried again on a fresh stack."""
    if fresh:
        backend.down()
    if fresh or not backend.is_up():
        backend.up(console.say)


def _run_in_process(plan: CasePlan, resolved: Path, workspace: Workspace, console: Console) -> bool:
    """Run ``rcarena case`` as a child; True when the case was published. Killing this process ends the child, too."""
    command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "tasks.cli", "case", plan.case_id]
    command += ["--params", str(resolved), "--workspace", str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            for line in child.stdout or ():
                console.say("  " + line.rstrip())
            child.wait()
        except BaseException:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(CASE_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    path = workspace.cases / plan.case_id
    return child.returncode == 0 and is_finished(path) and read_case(path).record.case_id == plan.case_id
