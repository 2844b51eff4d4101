"""The loop: SLO alarm, diagnosis on the telemetry so far, guards, action, recovery as users see it.

Policies that have done the same so far live in the same world: it is carried on once for all of them, and is copied
when they part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tasks.actions.catalogue import find_action
from tasks.backends.base import BranchingPatient, Patient
from tasks.errors import RCArenaError
from tasks.live_params import RemediateParams
from tasks.remediate.guards import Diagnosis, Proposal, Refusal, StackState, Taken, refusals
from tasks.remediate.policies import Policy, Situation, Truth
from tasks.remediate.slo import Judged, Slo, alarm, calm, judge, lasting_from, mitigated_at, onset, promised
from tasks.stack import Role

log = logging.getLogger(__name__)

Diagnose = Callable[[Patient, str, float], Diagnosis | None]
"""Diagnoses a patient with the method of this name; bad requests began at that second. None: it says nothing."""


@dataclass(frozen=True)
class Refused:
    at_s: float
    proposal: Proposal
    refusals: tuple[Refusal, ...]


@dataclass
class Episode:
    """What a policy did. Times are seconds after the start of the load; None: it did not happen.

    ``diagnosed_s``: the first diagnosis that named a service.
    """

    diagnosed_s: float | None = None
    taken: list[Taken] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    named: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What users had of it. ``mitigated_s``: when a first steady time began, ``lasting_s``: when all was steady until
    the end; None: not until the end. ``judged``: every request of the case."""

    mitigated_s: float | None
    lasting_s: float | None
    bad_request_s: float
    bad: int
    requests: int
    judged: Judged


@dataclass(frozen=True)
class Setting:
    """What all policies of a case share. ``roles``: of the services. ``truth``: service -> kinds of its faults, for the
    oracle and for whoever forges a diagnosis. ``timeout_s``: of a request."""

    params: RemediateParams
    roles: Mapping[str, Role]
    truth: Truth
    slo: Slo
    timeout_s: float
    diagnose: Diagnose


@dataclass(frozen=True)
class Watch:
    """The front end of one world until now. ``alarm_s``: the first alarm; ``onset_s``: when its bad requests began;
    ``sounding``: an incident is open, from an alarm until users have had what they are promised for ``steady_s``."""

    judged: Judged
    now_s: float
    alarm_s: float | None = None
    onset_s: float | None = None
    sounding: bool = False

    def looked(self, patient: Patient, setting: Setting) -> Watch:
        """Return what is seen of ``patient`` now."""
        now_s, slo = patient.now_s, setting.params.slo
        judged = judge(patient.requests(), setting.slo, now_s, setting.timeout_s)
        seen = replace(self, judged=judged, now_s=now_s)
        if alarm(judged, setting.slo, now_s, slo):
            if self.alarm_s is not None:
                return replace(seen, sounding=True)
            return replace(seen, sounding=True, alarm_s=now_s, onset_s=onset(judged, setting.slo, now_s, slo))
        if calm(judged, setting.slo, now_s - slo.steady_s, now_s):
            return replace(seen, sounding=False)
        return seen

    def bad_share(self, window_s: float) -> float | None:
        """Return the share of bad requests among those decided in the last window; None: there are none."""
        decided, bad = self.judged.share(self.now_s - window_s, self.now_s)
        return bad / decided if decided else None

    def goes_on(self, since_s: float, setting: Setting) -> bool:
        """Return whether requests that were due after ``since_s`` alone are an alarm."""
        return alarm(self.judged.due(since_s), setting.slo, self.now_s, setting.params.slo)


class Loop:
    """One policy in a case: what it knows, decides and has done. ``seed``: of random policies."""

    def __init__(self, policy: Policy, setting: Setting, seed: int) -> None:
        self.policy, self.episode = policy, Episode()
        self._setting, self._params = setting, setting.params
        self._rng = np.random.default_rng([seed, *policy.name.encode()])
        self._silent_since: dict[str, float] = {}
        self._diagnosis: Diagnosis | None = None
        self._next_look_s = -np.inf

    def decide(self, patient: Patient, watch: Watch) -> Proposal | None:
        """Return what the policy does now; None: nothing, or guards refuse it."""
        sounding = watch.sounding and self._has_not_helped(watch)
        if not (sounding or self.policy.early) or self._gave_up():
            return None
        if sounding:
            self._look(patient, watch)
        proposal = self.policy.propose(self._situation(patient, watch, sounding))
        if proposal is None:
            return None
        state = self._state(patient, watch)
        found = tuple(refusals(proposal, self._diagnosis, state, self._params.guards, self.policy.guards))
        if not found:
            return proposal
        self._refuse(Refused(state.now_s, proposal, found))
        return None

    def done(self, proposal: Proposal, at_s: float, out_s: float, failure: str | None = None) -> None:
        """Take note of an action that was carried out, or of why it was not."""
        self.episode.taken.append(Taken(proposal, at_s, at_s + out_s, failed=failure is not None))
        if failure is not None:
            self.episode.failures.append(failure)
        self._next_look_s = max(self._next_look_s, at_s + self._params.diagnose_again_s)

    def _has_not_helped(self, watch: Watch) -> bool:
        """Return whether requests are bad that came after the last action had its effect."""
        if not self.episode.taken:
            return True
        last = self.episode.taken[-1]
        return watch.goes_on(last.at_s if math.isinf(last.back_s) else last.back_s, self._setting)

    def _gave_up(self) -> bool:
        """Return whether the budget of the incident is used up, whatever would be proposed."""
        return "attempts" in self.policy.guards and len(self.episode.taken) >= self._params.guards.attempts

    def _look(self, patient: Patient, watch: Watch) -> None:
        """Diagnose when it is time to."""
        now_s, policy = watch.now_s, self.policy
        if watch.alarm_s is None or watch.onset_s is None or now_s < self._next_look_s:
            return
        if policy.forge is not None:
            self._diagnosis = policy.forge(self._setting.truth, self._setting.roles, now_s, self._rng)
        elif policy.method is not None:
            waits_s = self._params.evidence_s if policy.evidence_s is None else policy.evidence_s
            if now_s < watch.alarm_s + waits_s:
                return
            self._diagnosis = self._setting.diagnose(patient, policy.method, watch.onset_s)
        else:
            return
        self._next_look_s = now_s + self._params.diagnose_again_s
        named = self._named()
        if named is not None and self.episode.diagnosed_s is None:
            self.episode.diagnosed_s, self.episode.named = patient.now_s, named  # on a real stack a method takes time

    def _named(self) -> str | None:
        if self._diagnosis is None:
            return None
        if self._diagnosis.roots is None:
            return self._diagnosis.scores[0][0]
        return self._diagnosis.roots[0].service if self._diagnosis.roots else None

    def _refuse(self, refused: Refused) -> None:
        last = self.episode.refused[-1] if self.episode.refused else None
        if last is None or (last.proposal, [r.guard for r in last.refusals]) != (
            refused.proposal,
            [r.guard for r in refused.refusals],
        ):
            self.episode.refused.append(refused)

    def _state(self, patient: Patient, watch: Watch) -> StackState:
        now_s = patient.now_s
        out = {each.proposal.target for each in self.episode.taken if each.back_s > now_s}
        out |= set(patient.unresponsive())
        return StackState(
            now_s=now_s,
            roles=self._setting.roles,
            out=frozenset(name for name in out if self._setting.roles.get(name) == "replica"),
            load_share=patient.load_share(),
            taken=tuple(self.episode.taken),
            bad_share=watch.bad_share(self._params.slo.window_s),
        )

    def _situation(self, patient: Patient, watch: Watch, sounding: bool) -> Situation:
        now_s = patient.now_s
        silent = set(patient.unresponsive())
        self._silent_since = {name: self._silent_since.get(name, now_s) for name in silent}
        return Situation(
            alarm=sounding,
            state=self._state(patient, watch),
            diagnosis=self._diagnosis,
            silent_s={name: now_s - since for name, since in self._silent_since.items()},
            truth=self._setting.truth,
            rng=self._rng,
            health_timeout_s=self._params.health_timeout_s,
        )


@dataclass
class World:
    """A patient, what is seen of it, and the policies that made it what it is."""

    patient: Patient
    watch: Watch
    loops: list[Loop]


def run_loops(patient: Patient, loops: Sequence[Loop], setting: Setting) -> Iterator[World]:
    """Carry a case on from the begin of its faults to their planned end under every policy, and yield its worlds as
    they end. Several policies need a ``BranchingPatient``."""
    nothing = judge(patient.requests(), setting.slo, patient.now_s, setting.timeout_s)
    worlds = [World(patient, Watch(nothing, patient.now_s), list(loops))]
    while worlds:
        world = worlds.pop()
        while world.patient.now_s < world.patient.recovery_s:
            until_s = min(world.patient.now_s + setting.params.slo.check_s, world.patient.recovery_s)
            world.patient.advance(until_s)
            world.watch = world.watch.looked(world.patient, setting)
            worlds += _part(world)
        yield world


def _part(world: World) -> list[World]:
    """Let each policy decide and act; ``world`` keeps those that wait, or some that act together. Return the others."""
    wishes: dict[tuple[str, str], list[tuple[Loop, Proposal]]] = {}
    for loop in world.loops:
        if (wish := loop.decide(world.patient, world.watch)) is not None:
            wishes.setdefault((wish.action, wish.target), []).append((loop, wish))
    if not wishes:
        return []
    acting = {id(loop) for ways in wishes.values() for loop, _ in ways}
    waiting = [loop for loop in world.loops if id(loop) not in acting]
    groups = list(wishes.values())
    kept = groups if waiting else groups[1:]
    others = []
    for group in kept:
        if not isinstance(world.patient, BranchingPatient):
            raise TypeError("several policies share a patient whose time cannot be copied")
        others.append(World(world.patient.another(), world.watch, [loop for loop, _ in group]))
        _act(others[-1].patient, group)
    if not waiting:
        _act(world.patient, groups[0])
        waiting = [loop for loop, _ in groups[0]]
    world.loops = waiting
    return others


def _act(patient: Patient, group: Sequence[tuple[Loop, Proposal]]) -> None:
    """Carry out what all of ``group`` want, once."""
    (first, proposal), now_s = group[0], patient.now_s
    failure, out_s = None, 0.0
    try:
        out_s = patient.act(proposal.action, proposal.target)
    except RCArenaError as error:
        failure = f"{proposal.action} of {proposal.target}: {error}"
        log.info("%s: %s", first.policy.name, failure)
    for loop, wish in group:
        loop.done(wish, now_s, out_s, failure)


def baseline_slo(patient: Patient, params: RemediateParams) -> Slo:
    """Let the baseline pass, and return the SLO that it sets. Raises RCArenaError: nothing was served."""
    patient.advance(patient.fault_s)
    try:
        return promised(patient.requests(), params.slo, patient.now_s)
    except ValueError as error:
        raise RCArenaError(f"no SLO: {error}") from error


def verdict(world: World, setting: Setting) -> Verdict:
    """Let the rest of the case pass and judge what users had from the begin of the faults until their planned end."""
    patient, slo = world.patient, setting.slo
    patient.advance(patient.end_s + setting.timeout_s)
    judged = judge(patient.requests(), slo, patient.end_s + setting.timeout_s, setting.timeout_s)
    inside = (judged.scheduled >= patient.fault_s) & (judged.scheduled < patient.recovery_s)
    since_s = patient.fault_s if world.watch.alarm_s is None else world.watch.alarm_s
    return Verdict(
        mitigated_s=mitigated_at(judged, slo, since_s, patient.recovery_s, setting.params.slo),
        lasting_s=lasting_from(judged, slo, since_s, patient.recovery_s, setting.params.slo),
        bad_request_s=float(judged.excess_s[inside].sum()),
        bad=int(judged.bad[inside].sum()),
        requests=int(inside.sum()),
        judged=judged,
    )


def sli_series(
    requests: pd.DataFrame, judged: Judged, fault_s: float, until_s: float, step_s: float
) -> dict[str, list[Any]]:
    """Return the SLI in steps from ``LEAD_S`` before the faults on, a list each: ``at_s`` (begin of the step, seconds
    after the begin of the faults), ``requests`` that were due in it, ``bad`` ones of those, ``first_token_p95_s``
    (None: none came)."""
    edges = np.arange(fault_s - LEAD_S, until_s + step_s / 2, step_s)
    due, bad = (np.histogram(each, edges)[0] for each in (judged.scheduled, judged.scheduled[judged.bad]))
    step = np.digitize(requests["scheduled"].to_numpy(), edges) - 1
    waited = (requests["first_token"] - requests["scheduled"]).groupby(step).quantile(0.95)
    p95 = waited.reindex(range(len(edges) - 1)).round(4)
    return {
        "at_s": (edges[:-1] - fault_s).tolist(),
        "requests": due.tolist(),
        "bad": bad.tolist(),
        "first_token_p95_s": [None if math.isnan(each) else each for each in p95.tolist()],
    }


LEAD_S = 30.0
"""So much of the time before the faults is in the series."""


def is_wrong(taken: Taken, truth: Truth) -> bool:
    """Return whether an action is on a healthy service, or can by the table cure none of its faults."""
    kinds = truth.get(taken.proposal.target, ())
    return not any(find_action(taken.proposal.action).can_cure(kind) for kind in kinds)
