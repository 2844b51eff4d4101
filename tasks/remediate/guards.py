"""What must hold before an action: pure functions of proposal, diagnosis, state of the stack, and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks.actions.catalogue import UNKNOWN, find_action
from tasks.live_params import GuardParams
from tasks.stack import Role


@dataclass(frozen=True)
class Suspicion:
    """A root cause that a method names; its kind ("": it names none) and p value."""

    service: str | None
    kind: str = ""
    significance: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What a method says at ``at_s``. ``scores``: service and score, worst first. ``roots``: None where the method
    names no roots, empty where it says that there is none."""

    method: str
    at_s: float
    scores: tuple[tuple[str, float], ...]
    roots: tuple[Suspicion, ...] | None = None


@dataclass(frozen=True)
class Proposal:
    """An action that a policy wants. ``kind``: the fault that it is to cure, as diagnosed; "": not said."""

    action: str
    target: str
    kind: str = ""


@dataclass(frozen=True)
class Taken:
    """An action that was carried out, or tried in vain (``failed``). ``back_s``: from when its target serves again."""

    proposal: Proposal
    at_s: float
    back_s: float
    failed: bool = False


@dataclass(frozen=True)
class StackState:
    """``out``: replicas that serve nothing now, by whatever cause. ``load_share``: offered load as a share of what all
    replicas can carry, ``bad_share``: of the requests of the last minute or so; None: not known. ``taken``: actions of
    this incident; ``earlier``: those of others."""

    now_s: float
    roles: Mapping[str, Role]
    out: frozenset[str]
    load_share: float | None
    taken: tuple[Taken, ...] = ()
    earlier: tuple[Taken, ...] = ()
    bad_share: float | None = None

    def on(self, target: str, since_s: float) -> list[Taken]:
        """Return the actions on a target that are of this incident or not older than ``since_s``."""
        others = (each for each in self.earlier if each.at_s > since_s)
        return [each for each in (*others, *self.taken) if each.proposal.target == target]


@dataclass(frozen=True)
class Refusal:
    guard: str
    reason: str


Guard = Callable[[Proposal, Diagnosis | None, StackState, GuardParams], str | None]
"""Returns why the proposal is refused, else None."""


def significant(proposal: Proposal, diagnosis: Diagnosis | None, _: StackState, params: GuardParams) -> str | None:
    """The target is a root that the diagnosis is sure of."""
    root = _root(proposal, diagnosis)
    if root is None:
        return f"{proposal.target} is no root of the diagnosis"
    if root.significance is None or not root.significance <= params.significance:
        return f"p = {_shown(root.significance)} of {proposal.target} is above {params.significance:g}"
    return None


def ahead(proposal: Proposal, diagnosis: Diagnosis | None, _: StackState, params: GuardParams) -> str | None:
    """The target's score is ahead of every service that is no root, by a margin."""
    if diagnosis is None:
        return "there is no diagnosis"
    scores = dict(diagnosis.scores)
    own = scores.get(proposal.target)
    if own is None:
        return f"{proposal.target} is not ranked"
    roots = {root.service for root in diagnosis.roots or ()} | {proposal.target}
    others = [score for service, score in scores.items() if service not in roots]
    if others and own - max(others) < params.margin * abs(own):
        return f"{proposal.target} is not {params.margin:.0%} ahead of the next ({own:.3g}, {max(others):.3g})"
    return None


def curable(proposal: Proposal, diagnosis: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """The table says that the action can cure the kind."""
    if not proposal.kind:
        return "the kind of fault is not said"
    if not find_action(proposal.action).can_cure(proposal.kind):
        return f"{proposal.action} cannot cure {proposal.kind}"
    return None


def fresh(proposal: Proposal, diagnosis: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """The diagnosis is of now: what has ended needs no action."""
    if diagnosis is not None and (age_s := state.now_s - diagnosis.at_s) > params.max_age_s:
        return f"the diagnosis looks at what was {age_s:.0f} s ago, more than {params.max_age_s:g} s"
    return None


def own_evidence(proposal: Proposal, diagnosis: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """Gateway and head wait for all replicas, and all users for them: an action on them needs a root and a kind that
    are their own, and as many bad requests as a fault of what serves all makes."""
    if state.roles.get(proposal.target) == "replica":
        return None
    root = _root(proposal, diagnosis)
    if root is None or not root.kind or root.kind == UNKNOWN:
        return f"{proposal.target} serves all, and no evidence of its own names it"
    if state.bad_share is not None and state.bad_share < params.front_share:
        return f"{proposal.target} serves all, but only {state.bad_share:.1%} of the requests are bad"
    return None


def few_out(proposal: Proposal, _: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """At most so many replicas, and such a share of them, are out."""
    if not _takes_out(proposal, state):
        return None
    out = state.out | {proposal.target}
    replicas = [name for name, role in state.roles.items() if role == "replica"]
    limit = min(params.max_out, math.floor(params.max_out_share * len(replicas) + 1e-9))
    if len(out) > limit:
        return f"{len(out)} replicas would be out, more than {limit}"
    if len(replicas) - len(out) < 1:
        return "no replica would be left"
    return None


def capacity(proposal: Proposal, _: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """What is left carries the offered load."""
    if not _takes_out(proposal, state):
        return None
    if state.load_share is None:
        return "how much of its capacity the stack needs is not known"
    replicas = sum(role == "replica" for role in state.roles.values())
    left = 1 - len(state.out | {proposal.target}) / replicas
    if left < params.headroom * state.load_share:
        return f"{left:.0%} of the replicas cannot carry a load of {state.load_share:.0%} times {params.headroom:g}"
    return None


def cooled_down(proposal: Proposal, _: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """The last action on the target has had its time: a service that it ended to start again, any other to show in the
    telemetry."""
    after_restart_s = params.cooldown * params.restart_s
    for each in state.on(proposal.target, state.now_s - max(after_restart_s, params.settle_s)):
        wait_s = after_restart_s if find_action(each.proposal.action).restarts else params.settle_s
        if (ago_s := state.now_s - each.at_s) < wait_s:
            return f"the last action on {proposal.target} was {ago_s:.0f} s ago, less than {wait_s:.0f} s"
    return None


def attempts_left(proposal: Proposal, _: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """The budget of the incident is not used up, nor that of the target: an incident may be found again by another
    name."""
    on_target = state.on(proposal.target, state.now_s - params.breaker_window_s)
    if max(len(state.taken), len(on_target)) >= params.attempts:
        return f"{params.attempts} actions did not end it: a person must look"
    return None


def unbroken(proposal: Proposal, _: Diagnosis | None, state: StackState, params: GuardParams) -> str | None:
    """The circuit breaker of the stack is closed."""
    since = state.now_s - params.breaker_window_s
    recent = sum(each.at_s > since for each in (*state.earlier, *state.taken))
    if recent >= params.breaker:
        return f"{recent} actions on this stack within {params.breaker_window_s:g} s: a person must look"
    return None


SAFETY: Mapping[str, Guard] = {
    "few-out": few_out,
    "capacity": capacity,
    "cool-down": cooled_down,
    "attempts": attempts_left,
    "breaker": unbroken,
}
"""Guards that need no diagnosis."""
GUARDS: Mapping[str, Guard] = {
    "significant": significant,
    "ahead": ahead,
    "fresh": fresh,
    "own-evidence": own_evidence,
    "curable": curable,
    **SAFETY,
}


def refusals(
    proposal: Proposal,
    diagnosis: Diagnosis | None,
    state: StackState,
    params: GuardParams,
    guards: Mapping[str, Guard] = GUARDS,
) -> Sequence[Refusal]:
    """Return what every guard has against the proposal; empty when it may be carried out."""
    found = ((name, guard(proposal, diagnosis, state, params)) for name, guard in guards.items())
    return [Refusal(name, reason) for name, reason in found if reason is not None]


def _root(proposal: Proposal, diagnosis: Diagnosis | None) -> Suspicion | None:
    roots = (diagnosis.roots or ()) if diagnosis is not None else ()
    return next((root for root in roots if root.service == proposal.target), None)


def _takes_out(proposal: Proposal, state: StackState) -> bool:
    return state.roles.get(proposal.target) == "replica" and find_action(proposal.action).capacity


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"
