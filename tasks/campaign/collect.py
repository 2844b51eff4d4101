"""Record every planned case of a campaign. A campaign that was killed continues where it was."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.backends import backend_of, find, stacks_of
from tasks.backends.base import Backend
from tasks.campaign.claims import Claims
from tasks.campaign.errors import CampaignError
from tasks.campaign.lease import leased_stack, take_down
from tasks.campaign.make import make_cases
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.campaign.settle import campaign_lock, settle
from tasks.case import CaseError, is_finished, read_case
from tasks.console import Console
from tasks.deploy.errors import DeployError
from tasks.errors import EXIT_USAGE, ParamsError, RCArenaError
from tasks.inject.errors import FaultError
from tasks.inject.recover import recover, residue
from tasks.params import Params
from tasks.system.file_lock import FileLock
from tasks.system.side_by_side import rcarena_command, run_side_by_side
from tasks.text import some
from tasks.workspace import Workspace

ATTEMPTS_PER_CASE = 2
ATTEMPTS_TO_BRING_BACK = 2
CASE_STOP_TIMEOUT_S = 40.0
LEAVE_TIMEOUT_S = 600.0
"""Time (s) for the processes of a killed campaign to leave their stacks."""
POLL_S = 1.0
RESOLVED_PARAMS_FILE = "params.resolved.yaml"


@dataclass(frozen=True)
class Collected:
    """Case ids by what became of the cases. ``not_tried``: the stack was lost before it was their turn."""

    kept: tuple[str, ...]
    recorded: tuple[str, ...]
    failed: tuple[str, ...] = ()
    not_tried: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = {
            "recorded": self.recorded,
            "kept": self.kept,
            "failed": self.failed,
            "not tried": self.not_tried,
        }
        return ", ".join(f"{len(cases)} {what}" for what, cases in counts.items() if cases or what == "recorded")


class IncompleteError(CampaignError):
    """Some cases are missing; ``collected`` says which."""

    def __init__(self, collected: Collected, message: str) -> None:
        self.collected = collected
        super().__init__(message)


def collect(
    params: Params, workspace: Workspace, console: Console, *, keep_stack: bool = False, workers: int | None = None
) -> Collected:
    """Bring the stack up, record every case that is not finished yet, take the stack down.

    A backend that makes cases itself has no stack; it makes them in up to ``workers`` processes (default: one per CPU).

    After a case that fails, the next one is tried; only a stack that cannot be brought back ends the campaign early.
    With several stacks each has a process, cases go to whichever is free, and those of a lost stack to the others.

    Raises:
        CampaignError: another campaign uses the workspace.
        IncompleteError: cases failed, or were not tried.
        FaultError: every case is there, but faults may be left on a lost stack.
        DeployError: the stack cannot be brought up in the first place.
        ParamsError: the backend needs more for a campaign than it was given.
        PluginError: an exporter of another package cannot be used.
    """
    from tasks.export.base import EXPORTERS  # pandas

    EXPORTERS.require_all()
    with campaign_lock(workspace):
        places = stacks_of(params, workspace)
        _await_earlier(workspace, console)
        plans = plan_campaign(params)
        workspace.cases.mkdir(parents=True, exist_ok=True)
        resolved = workspace.root / RESOLVED_PARAMS_FILE
        resolved.write_text(params.dump(), encoding="utf-8")
        settle(workspace, plans, console)
        pending = [plan for plan in plans if not is_finished(workspace.cases / plan.case_id)]
        if pending and (problems := find(params.deploy.backend).campaign_problems(params.deploy)):
            raise ParamsError(problems)
        by_processes = places if pending and len(places) > 1 else ()
        for each in workspace.on_disk():
            if each not in by_processes:
                recover(each)
        missing = {plan.case_id for plan in pending}
        kept = tuple(plan.case_id for plan in plans if plan.case_id not in missing)
        if kept:
            console.say(f"collect: {len(kept)} of {len(plans)} cases are finished already")
        done = _Tally()
        if by_processes:
            done = _record_side_by_side(params, by_processes, resolved, pending, console, keep_stack)
        elif pending and backend_of(params, workspace).makes_cases():
            done = _make_cases(params, workspace, pending, console, workers)
        elif pending:
            backend = backend_of(params, workspace)
            with leased_stack(backend, console.say, keep_stack):
                done = _record_cases(backend, resolved, pending, console)
    collected = Collected(kept, _ids(done.recorded), _ids(done.failed), _ids(done.not_tried))
    if done.failed or done.not_tried:
        raise IncompleteError(collected, _missing_cases_text(done, collected))
    if done.stopped:
        console.say(f"collect: no case is missing, but a stack was lost: {done.stopped}")
    if done.residue:
        raise FaultError("\n".join(["every case is there, but faults may be left on a lost stack:", *done.residue]))
    console.say(f"collect: cases {collected}, in {workspace.cases}")
    return collected


def _await_earlier(workspace: Workspace, console: Console) -> None:
    """Wait until the processes of a campaign that was killed have left its stacks. Raises CampaignError."""
    for place in workspace.on_disk()[1:]:
        lock = stack_in_use(place)
        if not lock.try_acquire():
            console.say(f"stack {place.stack_index}: waiting for the end of an earlier campaign")
        with lock:
            pass


def stack_in_use(place: Workspace) -> FileLock:
    """Held by the process that records cases on one of several stacks, and by its case. Raises CampaignError."""
    busy = CampaignError(f"another campaign uses stack {place.stack_index} of {place.root}")
    return FileLock(place.live / ".collect.lock", busy, timeout_s=LEAVE_TIMEOUT_S)


def _record_side_by_side(
    params: Params,
    places: Sequence[Workspace],
    resolved: Path,
    pending: list[CasePlan],
    console: Console,
    keep_stacks: bool,
) -> _Tally:
    """Record the pending cases on several stacks, by a process for each (``collect_on``)."""
    claims = Claims(places[0])
    claims.reset()
    words = ["--params", str(resolved), "--workspace", str(places[0].root)]
    words += ["--keep-stack"] if keep_stacks else []
    commands = {f"stack {each.stack_index}": ["collect", "--stack", str(each.stack_index), *words] for each in places}
    statuses = run_side_by_side(commands, console.say)
    lost = claims.lost()
    lost |= {name: f"exit status {each}" for name, each in statuses.items() if each and name not in lost}
    for place, status in zip(places, statuses.values(), strict=True):
        if status < 0:  # it was killed and has cleaned up nothing
            with _told(console), stack_in_use(place):
                recover(place) if keep_stacks else take_down(backend_of(params, place), console.say)
    done = _Tally(stopped="; ".join(f"{name}: {reason}" for name, reason in sorted(lost.items())))
    for name, place in zip(commands, places, strict=True):
        done.residue += [f"{name}: {line}" for line in (residue(place) if name in lost else ())]
    for plan in pending:
        recorded, failed = _is_recorded(places[0], plan), claims.has_failed(plan.case_id)
        (done.recorded if recorded else done.failed if failed else done.not_tried).append(plan)
    return done


@contextlib.contextmanager
def _told(console: Console) -> Iterator[None]:
    """Say what a lost stack leaves behind; the cases of the others count all the same."""
    try:
        yield
    except RCArenaError as error:
        console.say(f"collect: {error}")


def collect_on(params: Params, place: Workspace, console: Console, *, keep_stack: bool) -> None:
    """Record cases on one of several stacks until each case is recorded or has failed. ``collect`` starts this.

    Raises:
        DeployError: the stack does not come up, or cannot be brought back.
        FaultError: what is left of faults on the stack cannot be undone.
    """
    claims, name = Claims(place), f"stack {place.stack_index}"
    resolved = place.root / RESOLVED_PARAMS_FILE
    with stack_in_use(place) as held:
        try:
            recover(place)
            backend = backend_of(params, place)
            with leased_stack(backend, console.say, keep_stack):
                _record_claimed(backend, resolved, list(plan_campaign(params)), claims, held, console)
        except _StackLostError as error:
            claims.lose(name, some(str(error).splitlines(), 1))
            raise DeployError(f"the stack cannot be brought back: {error}") from error
        except RCArenaError as error:
            claims.lose(name, some(str(error).splitlines(), 1))
            raise


def _record_claimed(
    backend: Backend, resolved: Path, plans: list[CasePlan], claims: Claims, held: FileLock, console: Console
) -> None:
    """Record cases that no other stack has claimed. Raises _StackLostError.

    It ends when every case is settled: one that another stack loses comes to this one.
    """
    while left := [plan for plan in plans if not claims.is_settled(plan.case_id)]:
        for plan in left:
            with claims.claim(plan.case_id) as claim:
                if claim is None:
                    continue
                console.say(f"case {plan.short_label}")
                try:
                    recorded = _record_case(backend, resolved, plan, console, (held.descriptor, claim))
                except _StackLostError as error:
                    if error.tried:
                        claims.give_back(plan.case_id)
                    raise
                if not recorded:
                    claims.fail(plan.case_id)
                break
        else:
            time.sleep(POLL_S)


@dataclass
class _Tally:
    """Cases by what became of them. ``stopped`` says why the rest was not tried, or which stacks were lost; ``residue``
    has the traces of faults on those."""

    recorded: list[CasePlan] = field(default_factory=list)
    failed: list[CasePlan] = field(default_factory=list)
    not_tried: list[CasePlan] = field(default_factory=list)
    stopped: str = ""
    residue: list[str] = field(default_factory=list)


def _ids(plans: list[CasePlan]) -> tuple[str, ...]:
    return tuple(plan.case_id for plan in plans)


def _missing_cases_text(done: _Tally, collected: Collected) -> str:
    """Say in a few lines how many cases are missing, some of their names, why, and what to do."""
    lines = [f"not every case is there: {collected}"]
    for what, plans in (("failed", done.failed), ("not tried", done.not_tried)):
        if plans:
            lines.append(f"{what}: {some(f'{plan.short_label} ({plan.case_id})' for plan in plans)}")
    if done.stopped:
        lines.append(f"the stack could not be brought back: {done.stopped}")
    lines += [f"a fault may be left: {line}" for line in done.residue]
    lines.append("run again to try only what is missing; `rcarena score` and `rcarena report` use what was recorded")
    return "\n".join(lines)


def _record_cases(backend: Backend, resolved: Path, pending: list[CasePlan], console: Console) -> _Tally:
    """Record the pending cases in their order until the stack cannot be brought back."""
    done = _Tally()
    with console.progress("cases", len(pending)) as advance:
        for number, plan in enumerate(pending, start=1):
            console.say(f"case {number}/{len(pending)}: {plan.short_label}")
            try:
                recorded = _record_case(backend, resolved, plan, console)
            except _StackLostError as error:
                tried = [plan] if error.tried else []
                done.failed += tried
                done.not_tried = pending[number - 1 + len(tried) :]
                done.stopped = some(str(error).splitlines(), 1)
                console.say(f"collect: the stack cannot be brought back; not trying the other {len(done.not_tried)}")
                break
            (done.recorded if recorded else done.failed).append(plan)
            advance(1)
    return done


def _make_cases(
    params: Params, workspace: Workspace, pending: list[CasePlan], console: Console, workers: int | None
) -> _Tally:
    """Let the backend make the pending cases."""
    done = _Tally()
    with contextlib.closing(make_cases(params, workspace, pending, console, workers)) as made:
        for each in made:
            (done.failed if each.problem else done.recorded).append(each.plan)
    return done


class _StackLostError(RCArenaError):
    """The stack cannot be brought back. ``tried``: the current case has had an attempt."""

    def __init__(self, tried: bool, reason: DeployError) -> None:
        self.tried = tried
        super().__init__(str(reason))


def _record_case(
    backend: Backend, resolved: Path, plan: CasePlan, console: Console, inherited: tuple[int, ...] = ()
) -> bool:
    """Record one case, a second time on a fresh stack if need be. Return False when that failed.

    ``inherited``: descriptors of locks that the process of the case holds, too.

    Raises:
        _StackLostError: the stack cannot be brought back.
    """
    for attempt in range(1, ATTEMPTS_PER_CASE + 1):
        if attempt > 1:
            console.say(f"case {plan.short_label}: attempt {attempt}, on a fresh stack")
        try:
            _ensure_stack(backend, console, fresh=attempt > 1)
        except DeployError as error:
            raise _StackLostError(attempt > 1, error) from error
        outcome = _run_in_process(plan, resolved, backend.workspace, console, inherited)
        if outcome == "hopeless":
            console.say(f"case {plan.short_label}: not tried again, the next attempt would end the same way")
        if outcome != "failed":
            return outcome == "recorded"
    return False


def _ensure_stack(backend: Backend, console: Console, *, fresh: bool) -> None:
    """Bring the stack up unless it is; with ``fresh``, replace it. Raises DeployError when that fails several times."""
    if not fresh and backend.is_up():
        return
    for attempt in range(1, ATTEMPTS_TO_BRING_BACK + 1):
        try:
            if fresh or attempt > 1:
                backend.down()
            backend.up(console.say)
            return
        except DeployError as error:
            if attempt == ATTEMPTS_TO_BRING_BACK:
                raise
            console.say(f"stack: {some(str(error).splitlines(), 1)}; trying again")


Outcome = Literal["recorded", "failed", "hopeless"]


def _run_in_process(
    plan: CasePlan, resolved: Path, workspace: Workspace, console: Console, inherited: tuple[int, ...] = ()
) -> Outcome:
    """Run ``rcarena case`` as a child that ends with this process.

    Return ``hopeless`` when it failed for a reason that another attempt cannot cure.
    """
    words = ["case", plan.case_id, "--params", str(resolved), "--workspace", str(workspace.root)]
    words += [] if workspace.stack_index is None else ["--stack", str(workspace.stack_index)]
    with subprocess.Popen(
        rcarena_command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=inherited
    ) as child:
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
    if child.returncode == EXIT_USAGE:
        return "hopeless"
    return "recorded" if child.returncode == 0 and _is_recorded(workspace, plan) else "failed"


def _is_recorded(workspace: Workspace, plan: CasePlan) -> bool:
    path = workspace.cases / plan.case_id
    try:
        return is_finished(path) and read_case(path).record.case_id == plan.case_id
    except CaseError:
        return False
