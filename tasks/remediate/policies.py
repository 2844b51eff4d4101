"""Who decides on actions. A policy sees a situation and proposes at most one action; guards may refuse it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.actions.catalogue import cures_of, find_action
from tasks.live_params import RemediateParams
from tasks.rca.method import METHODS
from tasks.remediate.forged import FORGERIES, Forge, Truth
from tasks.remediate.guards import GUARDS, SAFETY, Diagnosis, Guard, Proposal, StackState
from tasks.remediate.names import FORGED
from tasks.stack import Role
from tasks.text import suggest


@dataclass(frozen=True)
class Situation:
    """``alarm``: the SLO is broken. ``truth``: service -> kinds of its faults, for the oracle only. ``silent_s``: of
    each service that does not answer the platform's health check, for how long."""

    alarm: bool
    state: StackState
    diagnosis: Diagnosis | None
    silent_s: Mapping[str, float]
    truth: Truth
    rng: np.random.Generator = field(repr=False)
    health_timeout_s: float = 40


Propose = Callable[[Situation], Proposal | None]
Possible = Callable[[str, Role], bool]
"""Says whether a stack can carry out an action on a service of this role."""


@dataclass(frozen=True)
class Policy:
    """``method``: whose diagnosis it needs; ``forge``: or what it is told instead. ``evidence_s``: telemetry that it
    waits for after the alarm, None: as the parameters say. ``early``: it acts without an alarm."""

    name: str
    summary: str
    propose: Propose
    guards: Mapping[str, Guard]
    method: str | None = None
    forge: Forge | None = None
    evidence_s: float | None = None
    early: bool = False


def _nothing(_: Situation) -> None:
    return None


def _platform(situation: Situation) -> Proposal | None:
    """Restart what has not answered for the time-out, once until it is back."""
    busy = {each.proposal.target for each in situation.state.taken if each.back_s > situation.state.now_s}
    for service, silent_s in sorted(situation.silent_s.items()):
        if silent_s >= situation.health_timeout_s and service not in busy:
            return Proposal("restart", service)
    return None


def _random(situation: Situation) -> Proposal | None:
    replicas = sorted(name for name, role in situation.state.roles.items() if role == "replica")
    return Proposal("restart", str(situation.rng.choice(replicas))) if situation.alarm and replicas else None


def _restart_first(situation: Situation) -> Proposal | None:
    if not situation.alarm or situation.diagnosis is None or not situation.diagnosis.scores:
        return None
    return Proposal("restart", situation.diagnosis.scores[0][0])


def _by_table(situation: Situation) -> Proposal | None:
    return by_table(situation.diagnosis, situation.state) if situation.alarm else None


def by_table(diagnosis: Diagnosis | None, state: StackState, possible: Possible | None = None) -> Proposal | None:
    """Return the first action for the kind of the surest root that fits its role and was not tried. None: the table
    says wait, or no root is a service of a known kind. ``possible``: what the stack can carry out, default all."""
    tried = {(each.proposal.action, each.proposal.target) for each in state.taken}
    for root in (diagnosis.roots or ()) if diagnosis is not None else ():
        if root.service is None or not root.kind:
            continue
        if (action := first_choice(root.kind, root.service, state, tried, possible)) is not None:
            return Proposal(action, root.service, root.kind)
    return None


def _oracle(situation: Situation) -> Proposal | None:
    """For each fault once the best action for it, none on a replica that gets no more requests."""
    if not situation.alarm:
        return None
    taken = [each.proposal for each in situation.state.taken]
    tried = {(each.action, each.target) for each in taken}
    for service, kinds in situation.truth.items():
        if ("eject", service) in tried:
            continue
        for kind in kinds:
            if any((each.target, each.kind) == (service, kind) for each in taken):
                continue
            if (action := first_choice(kind, service, situation.state, tried)) is not None:
                return Proposal(action, service, kind)
    return None


def first_choice(
    kind: str, service: str, state: StackState, tried: set[tuple[str, str]], possible: Possible | None = None
) -> str | None:
    """Return the preferred action for a kind on a service that its role allows, that is possible and was not tried;
    None: wait, nothing is left to try, or the service is none of the stack's (it was added in the incident)."""
    if (role := state.roles.get(service)) is None:
        return None
    for place, action in sorted(cures_of(kind).items()):
        if place != 1 and 1 not in cures_of(kind):
            return None
        fits = role in find_action(action.name).roles and (possible is None or possible(action.name, role))
        if fits and (action.name, service) not in tried:
            return action.name
    return None


FIXED: Mapping[str, Policy] = {
    each.name: each
    for each in (
        Policy("none", "nobody acts", _nothing, {}),
        Policy("platform", "restarts what does not answer its health check", _platform, {}, early=True),
        Policy("restart-random", "restarts a random replica", _random, SAFETY),
        Policy("oracle", "the first action of the table for the true kind, on the true service", _oracle, {}),
    )
}
FAMILIES: Mapping[str, Callable[[str], Policy]] = {
    "restart": lambda method: Policy(
        f"restart:{method}", f"restarts the first of {method}", _restart_first, SAFETY, method
    ),
    "table": lambda method: Policy(
        f"table:{method}", f"the table's action for the surest root of {method}", _by_table, GUARDS, method
    ),
}


def policy_problem(name: str) -> str:
    """Return why there is no such policy; empty if there is."""
    plain, at, wait = name.partition("@")
    family, colon, method = plain.partition(":")
    allowed = [*FIXED, *(f"{each}:METHOD" for each in FAMILIES), *(f"{FORGED}:{each}" for each in FORGERIES)]
    if family == FORGED and colon and not at:
        known = [f"{FORGED}:{each}" for each in FORGERIES]
        return "" if method in FORGERIES else f"unknown policy '{name}'; {suggest(name, known)}"
    if not colon:
        return "" if name in FIXED else f"unknown policy '{name}'; {suggest(name, allowed)}"
    if family not in FAMILIES:
        return f"unknown policy '{name}'; {suggest(f'{family}:METHOD', allowed)}"
    if at and not wait.isdecimal():
        return f"unknown policy '{name}': after @ comes for how many seconds it waits, as in '{plain}@30'"
    return METHODS.problem(method)


def find_policy(name: str) -> Policy:
    """Return the policy called ``name``. Raises KeyError when ``policy_problem`` has something to say."""
    if problem := policy_problem(name):
        raise KeyError(problem)
    plain, at, wait = name.partition("@")
    family, colon, method = plain.partition(":")
    if not colon:
        return FIXED[name]
    if family == FORGED:
        forgery = FORGERIES[method]
        return Policy(name, forgery.summary, _by_table, GUARDS, forge=forgery.make)
    return replace(FAMILIES[family](method), name=name, evidence_s=float(wait) if at else None)


def remediate_problems(params: RemediateParams) -> list[str]:
    """Return the problems of the section ``remediate``, one line each, with the key."""
    names = params.policies
    problems = [
        f"remediate.policies[{i}]: {problem}" for i, name in enumerate(names) if (problem := policy_problem(name))
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"remediate.policies: '{name}' is given twice" for name in twice]
    if "none" not in names:
        problems.append("remediate.policies: 'none' is missing; every other policy is compared with it")
    return problems
