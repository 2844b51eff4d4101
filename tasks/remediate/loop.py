"""The loop: SLO alarm, diagnosis on the telemetry so far, guards, action, recovery as users see it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.actions.catalogue import find_action
from tasks.backends.base import Patient
from tasks.errors import RCArenaError
from tasks.params import RemediateParams, ScoreParams
from tasks.rca.registry import entry_of
from tasks.rca.run.build_view import NoChangeDetected, build_view
from tasks.rca.run.pair import PairResult, run_pair
from tasks.remediate.guards import Diagnosis, Proposal, Refusal, StackState, Suspicion, Taken, refusals
from tasks.remediate.policies import Policy, Situation
from tasks.remediate.slo import Slo, alarm, calm, judge, mitigated_at, promised
from tasks.stack import Role

log = logging.getLogger(__name__)

Diagnose = Callable[[Patient, str], Diagnosis | None]
"""Diagnoses with the method of this name; None: it fails, or sees no change."""


@dataclass(frozen=True)
class Refused:
    at_s: float
    proposal: Proposal
    refusals: tuple[Refusal, ...]


@dataclass
class Episode:
    """What became of one case under one policy. Times are seconds after the start of the load; None: it did not happen.

    ``diagnosed_s``: the first diagnosis that named a service.
    """

    alarm_s: float | None = None
    diagnosed_s: float | None = None
    taken: list[Taken] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    named: str | None = None

    def another(self) -> Episode:
        return Episode(
            self.alarm_s, self.diagnosed_s, list(self.taken), list(self.refused), list(self.failures), self.named
        )


@dataclass(frozen=True)
class Verdict:
    """What users had of it: ``mitigated_s`` None: not until the end."""

    mitigated_s: float | None
    bad_request_s: float
    bad: int
    requests: int


class Loop:
    """One case under one policy, from the begin of the faults on.

    Args:
        roles: of the services. truth: service -> kind of the faults, for the oracle.
        seed: of random policies.
    """

    def __init__(
        self,
        patient: Patient,
        policy: Policy,
        params: RemediateParams,
        roles: Mapping[str, Role],
        truth: Mapping[str, str],
        slo: Slo,
        diagnose: Diagnose,
        timeout_s: float,
        seed: int,
        episode: Episode | None = None,
    ) -> None:
        self.patient, self.policy, self.params = patient, policy, params
        self.episode = episode or Episode()
        self._roles, self._truth, self._slo, self._timeout_s = roles, truth, slo, timeout_s
        self._diagnose = diagnose
        self._rng = np.random.default_rng([seed, *policy.name.encode()])
        self._silent_since: dict[str, float] = {}
        self._diagnosis: Diagnosis | None = None
        self._next_diagnosis_s = -np.inf
        self._open = self.episode.alarm_s is not None

    def run(self, until_alarm: bool = False) -> Episode:
        """Go on until the faults would end, or only until the first alarm."""
        while self.patient.now_s < self.patient.recovery_s:
            self.patient.advance(min(self.patient.now_s + self.params.slo.check_s, self.patient.recovery_s))
            sounding = self.sounds()
            if sounding and self.episode.alarm_s is None:
                self.episode.alarm_s = self.patient.now_s
                if until_alarm:
                    return self.episode
            self.step(sounding)
        return self.episode

    def sounds(self) -> bool:
        """Return whether there is an incident: from an alarm until users have had what they are promised for
        ``steady_s``."""
        now_s, slo = self.patient.now_s, self.params.slo
        judged = judge(self.patient.requests(), self._slo, now_s, self._timeout_s)
        if alarm(judged, self._slo, now_s, slo):
            self._open = True
        elif calm(judged, self._slo, now_s - slo.steady_s, now_s):
            self._open = False
        return self._open

    def step(self, sounding: bool) -> None:
        """Decide once, and act if no guard refuses."""
        if not (sounding or self.policy.early):
            return
        if sounding and self.policy.method is not None:
            self._look(self.policy.method)
        proposal = self.policy.propose(self._situation(sounding))
        if proposal is None:
            return
        state = self._state()
        found = tuple(refusals(proposal, self._diagnosis, state, self.params.guards, self.policy.guards))
        if found:
            self._refuse(Refused(state.now_s, proposal, found))
            return
        self._act(proposal)

    def _look(self, method: str) -> None:
        """Diagnose when it is time to."""
        now_s, alarm_s = self.patient.now_s, self.episode.alarm_s
        if alarm_s is None or now_s < alarm_s + self.params.evidence_s or now_s < self._next_diagnosis_s:
            return
        self._next_diagnosis_s = now_s + self.params.diagnose_again_s
        self._diagnosis = self._diagnose(self.patient, method)
        if self._diagnosis is None:
            return
        roots = self._diagnosis.roots
        named = roots[0].service if roots else None if roots is not None else self._diagnosis.scores[0][0]
        if named is not None and self.episode.diagnosed_s is None:
            self.episode.diagnosed_s, self.episode.named = now_s, named

    def _act(self, proposal: Proposal) -> None:
        now_s = self.patient.now_s
        try:
            out_s = self.patient.act(proposal.action, proposal.target)
        except RCArenaError as error:
            self.episode.failures.append(f"{proposal.action} of {proposal.target}: {error}")
            out_s = 0.0
        self.episode.taken.append(Taken(proposal, now_s, now_s + out_s))
        self._next_diagnosis_s = max(self._next_diagnosis_s, now_s + self.params.diagnose_again_s)

    def _refuse(self, refused: Refused) -> None:
        last = self.episode.refused[-1] if self.episode.refused else None
        if last is None or (last.proposal, [r.guard for r in last.refusals]) != (
            refused.proposal,
            [r.guard for r in refused.refusals],
        ):
            self.episode.refused.append(refused)

    def _state(self) -> StackState:
        now_s = self.patient.now_s
        out = {each.proposal.target for each in self.episode.taken if each.back_s > now_s}
        out |= set(self.patient.unresponsive())
        return StackState(
            now_s=now_s,
            roles=self._roles,
            out=frozenset(name for name in out if self._roles.get(name) == "replica"),
            load_share=self.patient.load_share(),
            taken=tuple(self.episode.taken),
        )

    def _situation(self, sounding: bool) -> Situation:
        now_s = self.patient.now_s
        silent = set(self.patient.unresponsive())
        self._silent_since = {name: self._silent_since.get(name, now_s) for name in silent}
        return Situation(
            alarm=sounding,
            state=self._state(),
            diagnosis=self._diagnosis,
            silent_s={name: now_s - since for name, since in self._silent_since.items()},
            truth=self._truth,
            rng=self._rng,
            health_timeout_s=self.params.health_timeout_s,
        )


def baseline_slo(patient: Patient, params: RemediateParams) -> Slo:
    """Let the baseline pass, and return the SLO that it sets. Raises RCArenaError: nothing was served."""
    patient.advance(patient.fault_s)
    try:
        return promised(patient.requests(), params.slo, patient.now_s)
    except ValueError as error:
        raise RCArenaError(f"no SLO: {error}") from error


def verdict(patient: Patient, episode: Episode, slo: Slo, params: RemediateParams, timeout_s: float) -> Verdict:
    """Let the rest of the case pass and judge what users had from the begin of the faults until their planned end."""
    patient.advance(patient.end_s + timeout_s)
    judged = judge(patient.requests(), slo, patient.end_s + timeout_s, timeout_s)
    inside = (judged.scheduled >= patient.fault_s) & (judged.scheduled < patient.recovery_s)
    since_s = patient.fault_s if episode.alarm_s is None else episode.alarm_s
    return Verdict(
        mitigated_s=mitigated_at(judged, slo, since_s, patient.recovery_s, params.slo),
        bad_request_s=float(judged.excess_s[inside].sum()),
        bad=int(judged.bad[inside].sum()),
        requests=int(inside.sum()),
    )


def diagnoser(score: ScoreParams) -> Diagnose:
    """Return a function that diagnoses on the telemetry so far; when it changed is estimated, not known."""
    score = score.model_copy(update={"inject_time": "detected", "baseline_s": None, "fault_s": None})

    def diagnose(patient: Patient, label: str) -> Diagnosis | None:
        entry = entry_of(label, score.profile)
        with tempfile.TemporaryDirectory() as directory:
            case = patient.recording(Path(directory))
            try:
                view = build_view(case, score.model_copy(update={"profile": entry.profile}))
            except NoChangeDetected as error:
                log.info("%s", error)
                return None
            result = run_pair(entry.method, view, score.seed, entry.parameters(score.method_parameters))
        if result.status != "ok" or not result.suspects:
            log.warning("%s: %s %s", label, result.status, result.message)
            return None
        return as_diagnosis(label, result, patient.now_s)

    return diagnose


def as_diagnosis(method: str, result: PairResult, at_s: float) -> Diagnosis:
    """Return what an action may be based on: the ranking and the roots, the surest first."""
    roots = None
    if result.findings is not None:
        found = [each for each in result.findings if each.role == "root"]
        roots = tuple(
            Suspicion(each.service, each.kind, each.significance)
            for each in sorted(found, key=lambda each: each.significance)
        )
    return Diagnosis(method, at_s, tuple((each.service, each.score) for each in result.suspects), roots)


def is_wrong(taken: Taken, truth: Mapping[str, str]) -> bool:
    """Return whether an action is on a healthy service, or can by the table not cure its fault."""
    kind = truth.get(taken.proposal.target)
    return kind is None or not find_action(taken.proposal.action).can_cure(kind)
