"""The paired experiment: each case of a campaign under each policy.

A backend whose time can be copied carries a case to its first alarm once; from there each policy goes its own way, so
that all see the same arrivals, the same noise and the same first diagnosis. A finished case is a file below
``episodes`` of the workspace and is not done again.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.backends import backend_of
from tasks.backends.base import Patient
from tasks.campaign.attempt import order_of
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.errors import ParamsError
from tasks.identity import digest
from tasks.injection import NO_FAULT, ROOT
from tasks.params import Params
from tasks.remediate.guards import Diagnosis
from tasks.remediate.loop import Diagnose, Episode, Loop, baseline_slo, diagnoser, is_wrong, verdict
from tasks.remediate.policies import find_policy, remediate_problems
from tasks.remediate.slo import Slo
from tasks.system.durable import write_durably
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
Say = Callable[[str], None]
Row = dict[str, Any]


def run_experiment(
    params: Params, workspace: Workspace, workers: int, say: Say, limit: int | None = None, cases: Collection[str] = ()
) -> list[Row]:
    """Run what is unfinished, and return a row per case and policy; ``limit``: only so many cases; ``cases``: only
    these, where any are given.

    Raises:
        ParamsError: the parameters cannot be used.
        RCArenaError: a case cannot be carried out.
    """
    if problems := remediate_problems(params.remediate):
        raise ParamsError(problems)
    plans = [plan for plan in plan_campaign(params) if not cases or plan.case_id in cases][:limit]
    directory = workspace.episodes
    directory.mkdir(parents=True, exist_ok=True)
    files = {plan.case_id: directory / f"{plan.case_id}-{_key(params)}.json" for plan in plans}
    todo = [plan for plan in plans if not files[plan.case_id].exists()]
    say(f"{len(plans)} cases under {len(params.remediate.policies)} policies; {len(todo)} to do")
    for done, (plan, rows) in enumerate(_each(params, workspace, todo, workers), 1):
        write_durably(files[plan.case_id], json.dumps(rows, indent=1).encode())
        say(f"{done} of {len(todo)}: {plan.label}")
    return [row for plan in plans for row in json.loads(files[plan.case_id].read_bytes())]


def _key(params: Params) -> str:
    """Identify what an episode depends on beside its case."""
    score = params.score.model_dump(
        mode="json", include={"method_parameters", "profile", "seed", "inject_time_error_s"}
    )
    remediate = params.remediate.model_dump(mode="json", exclude={"enabled"})
    return digest({"remediate": remediate, "score": score})[:8]


def _each(
    params: Params, workspace: Workspace, plans: Sequence[CasePlan], workers: int
) -> Iterable[tuple[CasePlan, list[Row]]]:
    if workers <= 1:
        for plan in plans:
            yield plan, run_case(params, workspace, plan)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of other threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    running = {pool.submit(run_case, params, workspace, plan): plan for plan in plans}
    try:
        for finished in as_completed(running):
            yield running[finished], finished.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a worker ends with its case, or with this process


def _start_worker(parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def run_case(params: Params, workspace: Workspace, plan: CasePlan) -> list[Row]:
    """Carry out one case under every policy, in an order drawn by its seed, and return a row for each."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return _Case(params, workspace, plan).run()


class _Case:
    def __init__(self, params: Params, workspace: Workspace, plan: CasePlan) -> None:
        self._params, self._plan, self._order = params, plan, order_of(params, plan)
        self._backend = backend_of(params, workspace)
        self._truth = {each.target: each.kind for each in plan.injections if each.role == ROOT}
        self._timeout_s = plan.load.request_timeout_s
        self._diagnose = diagnoser(params.score)
        names = list(params.remediate.policies)
        shuffled = [names[i] for i in np.random.default_rng(plan.seed).permutation(len(names))]
        self._policies = [find_policy(name) for name in shuffled]

    def run(self) -> list[Row]:
        start = self._backend.admit(self._order)
        slo = baseline_slo(start, self._params.remediate)
        at_fault = start.another()
        if at_fault is None:
            return [self._row(policy.name, *self._afresh(policy.name)) for policy in self._policies]
        watch = self._loop(start, "none", slo, self._diagnose)
        watch.run(until_alarm=True)
        first = _Once(self._diagnose)
        rows = []
        for policy in self._policies:
            patient = (at_fault if policy.early else start).another()
            assert patient is not None
            loop = self._loop(patient, policy.name, slo, first, None if policy.early else watch.episode.another())
            if not policy.early and watch.episode.alarm_s is not None:
                loop.step(sounding=True)
            episode = loop.run()
            rows.append(self._row(policy.name, patient, episode, slo))
        return rows

    def _afresh(self, policy: str) -> tuple[Patient, Episode, Slo]:
        """Carry the whole case out: time cannot be copied."""
        patient = self._backend.admit(self._order)
        slo = baseline_slo(patient, self._params.remediate)
        return patient, self._loop(patient, policy, slo, self._diagnose).run(), slo

    def _loop(
        self, patient: Patient, policy: str, slo: Slo, diagnose: Diagnose, episode: Episode | None = None
    ) -> Loop:
        return Loop(
            patient,
            find_policy(policy),
            self._params.remediate,
            self._params.deploy.roles(),
            self._truth,
            slo,
            diagnose,
            self._timeout_s,
            self._plan.seed,
            episode,
        )

    def _row(self, policy: str, patient: Patient, episode: Episode, slo: Slo) -> Row:
        judged = verdict(patient, episode, slo, self._params.remediate, self._timeout_s)
        kinds = sorted(set(self._truth.values()))
        fault_s = patient.fault_s
        since = _since(fault_s)
        return {
            "case_id": self._plan.case_id,
            "scenario": self._plan.scenario or "",
            "kind": "+".join(kinds) or NO_FAULT,
            "target": "+".join(self._truth) or NO_FAULT,
            "policy": policy,
            "detect_s": since(episode.alarm_s),
            "localise_s": since(episode.diagnosed_s),
            "act_s": since(episode.taken[0].at_s if episode.taken else None),
            "mitigate_s": since(judged.mitigated_s) if self._truth else None,
            "horizon_s": patient.recovery_s - fault_s,
            "bad_request_s": judged.bad_request_s,
            "bad": judged.bad,
            "requests": judged.requests,
            "named": episode.named or "",
            "actions": len(episode.taken),
            "wrong": sum(is_wrong(each, self._truth) for each in episode.taken),
            "slo": asdict(slo),
            "taken": [
                {**asdict(each.proposal), "at_s": since(each.at_s), "wrong": is_wrong(each, self._truth)}
                for each in episode.taken
            ],
            "refused": [
                {
                    **asdict(each.proposal),
                    "at_s": since(each.at_s),
                    "guards": {refusal.guard: refusal.reason for refusal in each.refusals},
                }
                for each in episode.refused
            ],
            "failures": episode.failures,
        }


class _Once:
    """Diagnoses a patient once per method, moment and actions taken: policies that did nothing yet see the same."""

    def __init__(self, diagnose: Diagnose) -> None:
        self._diagnose = diagnose
        self._known: dict[tuple[str, float], Diagnosis | None] = {}

    def __call__(self, patient: Patient, method: str) -> Diagnosis | None:
        if patient.touched:
            return self._diagnose(patient, method)
        key = (method, patient.now_s)
        if key not in self._known:
            self._known[key] = self._diagnose(patient, method)
        return self._known[key]


def _since(fault_s: float) -> Callable[[float | None], float | None]:
    def since(at_s: float | None) -> float | None:
        return None if at_s is None or math.isnan(at_s) else round(at_s - fault_s, 3)

    return since
