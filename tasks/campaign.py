"""A campaign: every planned case is collected. Killed at any point, it continues where it was."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.case import is_finished, read_case, validate_case
from tasks.console import Console
from tasks.deploy.local import lifecycle
from tasks.deploy.local.runtime import read_runtime
from tasks.inject.recover import recover
from tasks.params import Params
from tasks.plan import CasePlan, plan_campaign
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

ATTEMPTS_PER_CASE = 2
LEASE_RENEWAL_S = 5.0
CASE_STOP_TIMEOUT_S = 40.0
RESOLVED_PARAMS_FILE = "params.resolved.yaml"


class CampaignError(RuntimeError):
    """The campaign could not be completed; what was finished is kept."""


@dataclass(frozen=True)
class Collected:
    """Case ids after ``collect``: which were there already, which are new, which failed."""

    kept: tuple[str, ...]
    recorded: tuple[str, ...]
    failed: tuple[str, ...]


def collect(
    params: Params, params_file: Path, workspace: Workspace, console: Console, *, keep_stack: bool = False
) -> Collected:
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
        set_aside(workspace, plans, console)
        recover(workspace)
        pending = [plan for plan in plans if not is_finished(workspace.cases / plan.case_id)]
        kept = tuple(plan.case_id for plan in plans if plan not in pending)
        if kept:
            console.say(f"collect: {len(kept)} of {len(plans)} cases are finished already")
        if not pending:
            return Collected(kept, (), ())
        with _stack(params, workspace, console, keep_stack):
            recorded, failed = _record(params, resolved, workspace, pending, console)
    if failed:
        names = ", ".join(f"{plan.label} ({plan.case_id})" for plan in failed)
        raise CampaignError(f"{len(failed)} of {len(plans)} cases failed: {names}. Run again to retry only these")
    return Collected(kept, tuple(plan.case_id for plan in recorded), ())


def set_aside(workspace: Workspace, plans: tuple[CasePlan, ...], console: Console) -> None:
    """Move cases that the parameters no longer ask for, and damaged ones, to ``superseded``: nothing is deleted."""
    wanted = {plan.case_id for plan in plans}
    for path in sorted(workspace.cases.iterdir()):
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


@contextlib.contextmanager
def exclusive(workspace: Workspace) -> Iterator[None]:
    """One campaign per workspace; the lock goes with the process.

    Raises:
        CampaignError: another process has it.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (workspace.root / ".campaign.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignError(f"another campaign runs in {workspace.root}") from None
        yield


@contextlib.contextmanager
def _stack(params: Params, workspace: Workspace, console: Console, keep: bool) -> Iterator[None]:
    """The stack, up and leased while the campaign lives: should it be killed, the supervisor ends the stack."""
    try:
        lifecycle.up(params.deploy, workspace.stack, console.say)
        with _lease(workspace.stack):
            yield
    finally:
        if keep:
            lifecycle.drop_lease(workspace.stack)
            console.say("stack: kept up; end it with `rcarena deploy down`")
        else:
            console.say("stack: taking it down")
            recover(workspace)
            lifecycle.down(workspace.stack)


@contextlib.contextmanager
def _lease(stack: Path) -> Iterator[None]:
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.is_set():
            lifecycle.renew_lease(stack)
            stopped.wait(LEASE_RENEWAL_S)

    lifecycle.renew_lease(stack)
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _record(
    params: Params, resolved: Path, workspace: Workspace, pending: list[CasePlan], console: Console
) -> tuple[list[CasePlan], list[CasePlan]]:
    recorded: list[CasePlan] = []
    failed: list[CasePlan] = []
    with console.progress("cases", len(pending)) as advance:
        for plan in pending:
            for attempt in range(1, ATTEMPTS_PER_CASE + 1):
                again = f" (attempt {attempt})" if attempt > 1 else ""
                console.say(f"case {len(recorded) + len(failed) + 1}/{len(pending)}: {plan.label}{again}")
                _ensure_stack(params, workspace, console, fresh=attempt > 1)
                if _run_in_process(plan, resolved, workspace, console):
                    recorded.append(plan)
                    break
            else:
                failed.append(plan)
            advance(1)
    return recorded, failed


def _ensure_stack(params: Params, workspace: Workspace, console: Console, *, fresh: bool) -> None:
    """A case that failed is tried again on a fresh stack."""
    runtime = read_runtime(workspace.stack)
    if fresh:
        lifecycle.down(workspace.stack)
    if fresh or runtime is None or not runtime.alive:
        lifecycle.up(params.deploy, workspace.stack, console.say)


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
