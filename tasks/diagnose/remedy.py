"""What could be done about a diagnosis: the action of the table, what guards have against it, and doing it if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pandas as pd

from tasks import metrics
from tasks.actions.act import Objection, act, actions_of, lasting, refusal
from tasks.actions.catalogue import find_action
from tasks.actions.errors import ActionError
from tasks.backends import UnknownBackendError, published
from tasks.case import Case, read_case
from tasks.diagnose.diagnosis import Diagnosis
from tasks.errors import RCArenaError
from tasks.live_params import RemediateParams
from tasks.remediate import guards
from tasks.remediate.guards import Proposal, StackState, Suspicion, Taken, refusals
from tasks.remediate.policies import Possible, by_table
from tasks.stack import Role
from tasks.workspace import Workspace

RECENT_S = 60.0


class Remedy:
    """Follows each diagnosis of ``rcarena diagnose --remediate``. ``carry_out`` False: a dry run, which only says."""

    def __init__(
        self, params: RemediateParams, place: Workspace, say: Callable[[str], None], carry_out: bool = False
    ) -> None:
        self._params, self._place, self._say, self._carry_out = params, place, say, carry_out

    def __call__(self, diagnosis: Diagnosis) -> None:
        """Say what would be done and what is against it; do it if nothing is and it was asked for."""
        try:
            case = read_case(diagnosis.case)
            state = self._state(diagnosis, case)
        except RCArenaError as error:
            self._say(f"remedy: nothing is done: {error}")
            return
        seen = as_guards_see(diagnosis)
        proposal = by_table(seen, state, self._possible()) or by_table(seen, state)
        if proposal is None:
            self._say("remedy: nothing to do: the table says wait, or has no untried action for what is named")
            return
        what = f"{proposal.action} {proposal.target} ({proposal.kind})"
        found = [f"{each.guard}: {each.reason}" for each in refusals(proposal, seen, state, self._params.guards)]
        found += self._own_doing(proposal, diagnosis)
        found += self._impossible(proposal)
        if found:
            self._say(f"remedy: {what} is refused")
            for line in found:
                self._say(f"  {line}")
        elif self._carry_out:
            self._do(proposal, what, diagnosis.incident, lambda: self._objection(proposal, diagnosis, case))
        else:
            self._say(f"remedy: would {what}; nothing is done without --act")

    def _possible(self) -> Possible | None:
        """Return what the running stack can carry out; None where none runs here, and all is only said."""
        try:
            runtime = published(self._place.stack)
        except UnknownBackendError:
            return None
        if runtime is None:
            return None
        backend = runtime.backend

        def possible(action: str, role: Role) -> bool:
            found = find_action(action)
            return found.executor(backend) is not None and role in found.roles_on(backend)

        return possible

    def _objection(self, proposal: Proposal, diagnosis: Diagnosis, case: Case) -> str | None:
        """Return what the guards have against it after the actions that others have begun meanwhile."""
        found = refusals(proposal, as_guards_see(diagnosis), self._state(diagnosis, case), self._params.guards)
        said = [f"{each.guard}: {each.reason}" for each in found]
        return "; ".join(said + self._own_doing(proposal, diagnosis)) or None

    def _do(self, proposal: Proposal, what: str, incident: str, objection: Objection) -> None:
        runtime = published(self._place.stack)
        if runtime is None:
            self._say(f"remedy: {what} is not done: the stack has ended")
            return
        try:
            journal = act(runtime, self._place, proposal.action, proposal.target, incident, objection)
        except ActionError as error:
            self._say(f"remedy: {what} failed: {error}")
            return
        back = f"; `rcarena act {proposal.action} {proposal.target} --undo` takes it back" if journal.open else ""
        self._say(f"remedy: {what} is done{back}")

    def _own_doing(self, proposal: Proposal, diagnosis: Diagnosis) -> list[str]:
        """Return the action of another incident, or its undo, that changed the target within the telemetry of the
        diagnosis: a replica that is readmitted differs from its past and is healthy."""
        for journal in reversed(actions_of(self._place)):
            changed = journal.undone_at or journal.start_at
            ours = journal.injection_id.startswith(f"{diagnosis.incident}.")
            if journal.began and not ours and journal.target.name == proposal.target and changed >= diagnosis.start:
                what = f"the end of {journal.kind}" if journal.undone_at else journal.kind
                return [f"own-doing: {what} changed {proposal.target} within the time that the diagnosis looks at"]
        return []

    def _impossible(self, proposal: Proposal) -> list[str]:
        """Return why the stack cannot carry the action out."""
        try:
            runtime = published(self._place.stack)
        except UnknownBackendError as error:
            return [str(error)]
        if runtime is None:
            return ["stack: it was not started here, and nobody has allowed actions on it"]
        reason = refusal(runtime, proposal.action, proposal.target)
        return [] if reason is None else [f"stack: {reason}"]

    def _state(self, diagnosis: Diagnosis, case: Case) -> StackState:
        """Return the state of the stack by the recording and by the journals of its actions."""
        roles: Mapping[str, Role] = {service.name: service.role for service in case.record.stack.services}
        now_s = time.time()
        taken: list[Taken] = []
        earlier: list[Taken] = []
        for journal in (each for each in actions_of(self._place) if each.began):
            at_s = journal.start_at.timestamp()
            back_s = at_s + self._params.guards.restart_s
            ours = journal.injection_id.startswith(f"{diagnosis.incident}.")
            (taken if ours else earlier).append(Taken(Proposal(journal.kind, journal.target.name), at_s, back_s))
        out = {journal.target.name for journal in lasting(self._place)} | silent(case)
        out |= {
            each.proposal.target
            for each in (*taken, *earlier)
            if each.back_s > now_s and find_action(each.proposal.action).capacity
        }
        replicas = {name for name, role in roles.items() if role == "replica"}
        return StackState(now_s, roles, frozenset(out & replicas), load_share(case), tuple(taken), tuple(earlier))


def as_guards_see(diagnosis: Diagnosis) -> guards.Diagnosis | None:
    """Return what the first method that says what is significant says; None where no method does."""
    speaker = diagnosis.speaker
    if speaker is None:
        return None
    roots = sorted(speaker.roots, key=lambda each: each.significance)
    return guards.Diagnosis(
        speaker.method,
        diagnosis.end.timestamp(),
        tuple((each.service, each.score) for each in speaker.suspects),
        tuple(Suspicion(each.service, each.kind, each.significance) for each in roots),
    )


def silent(case: Case) -> set[str]:
    """Return the replicas whose engine reported nothing in the last minute of the recording while another's did: they
    are down, or their telemetry is lost, and nobody knows."""
    rows = case.metrics[case.metrics["metric"] == metrics.REQUESTS_RUNNING.name]
    if rows.empty:
        return set()
    recent = set(rows.loc[rows["time"] >= rows["time"].max() - pd.Timedelta(seconds=RECENT_S), "service"])
    return {service.name for service in case.record.stack.services if service.role == "replica"} - recent


def load_share(case: Case) -> float | None:
    """Return the requests in work, as a share of the seats of all replicas, over the last minute; None: not known."""
    seats = [service.limits.max_num_seqs for service in case.record.stack.services if service.role == "replica"]
    rows = case.metrics[case.metrics["metric"] == metrics.REQUESTS_RUNNING.name]
    known = [each for each in seats if each]
    if len(known) < len(seats) or not known or rows.empty:
        return None
    recent = rows[rows["time"] >= rows["time"].max() - pd.Timedelta(seconds=RECENT_S)]
    return float(recent.groupby("service")["value"].mean().sum() / sum(known))
