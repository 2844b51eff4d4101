"""The paired experiment: each case of a campaign under each policy.

On a backend whose time can be copied, policies share one world until they act differently: all see the same arrivals,
the same noise and the same first diagnosis. Elsewhere each policy has a run of its own, in an order drawn per case. A
finished run is a file below ``episodes`` of the workspace and is not done again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import math
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np

from tasks.backends.base import Patient
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.errors import ParamsError, RCArenaError
from tasks.identity import digest
from tasks.imports import code_digest
from tasks.injection import NO_FAULT, ROOT
from tasks.params import Params, ScoreParams
from tasks.rca.registry import get_method
from tasks.remediate.diagnosis import Diagnoser
from tasks.remediate.forged import Truth
from tasks.remediate.live import admit, is_live, ready
from tasks.remediate.loop import Loop, Setting, World, baseline_slo, is_wrong, run_loops, sli_series, verdict
from tasks.remediate.policies import Policy, find_policy, remediate_problems
from tasks.remediate.slo import Slo
from tasks.system.durable import write_durably
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
Say = Callable[[str], None]
Row = dict[str, Any]
SLI_STEP_S = 5.0


def run_experiment(
    params: Params,
    workspace: Workspace,
    workers: int,
    say: Say,
    limit: int | None = None,
    cases: Collection[str] = (),
    keep_stack: bool = False,
) -> list[Row]:
    """Run what is unfinished, and return a row per case and policy; ``limit``: only so many cases; ``cases``: only
    these, where any are given; ``keep_stack``: leave a real stack up. A run that fails on a real stack is said, and the
    others go on.

    Raises:
        ParamsError: the parameters cannot be used.
        RCArenaError: a case cannot be carried out, or runs on a real stack failed.
    """
    if problems := remediate_problems(params.remediate):
        raise ParamsError(problems)
    plans = [plan for plan in plan_campaign(params) if not cases or plan.case_id in cases][:limit]
    workspace.episodes.mkdir(parents=True, exist_ok=True)
    key, names = _key(params), params.remediate.policies
    files = {(plan.case_id, name): _file(workspace, plan, key, name) for plan in plans for name in names}
    if is_live(params):
        workers = 1  # there is one stack
    missing = [(plan, [name for name in names if not files[plan.case_id, name].exists()]) for plan in plans]
    todo = [(plan, left) for plan, left in missing if left]
    say(f"{len(plans)} cases under {len(names)} policies; {len(todo)} cases to do")
    with ready(params, workspace, say, keep_stack) if todo else contextlib.nullcontext():
        for done, plan in enumerate(_each(params, workspace, todo, workers, say), 1):
            say(f"{done} of {len(todo)}: {plan.label}")
    if failed := sum(not file.exists() for file in files.values()):
        raise RCArenaError(f"{failed} of {len(files)} runs failed; the same command tries them again")
    rows: list[Row] = [json.loads(file.read_bytes()) for file in files.values()]
    if other := sorted({row["policy"] for row in rows if row.get("code", "") != _code(find_policy(row["policy"]))}):
        say(f"{', '.join(other)}: by another version of the method; without {workspace.episodes} they are done again")
    return rows


def finished_rows(params: Params, workspace: Workspace) -> list[Row]:
    """Return the rows of the cases that have run under every policy; one that waits longer than usual may be missing:
    its curve is of the cases that it has."""
    key, names = _key(params), params.remediate.policies
    rows: list[Row] = []
    for plan in plan_campaign(params):
        files = {name: _file(workspace, plan, key, name) for name in names}
        if all(file.exists() for name, file in files.items() if "@" not in name):
            rows += [json.loads(file.read_bytes()) for file in files.values() if file.exists()]
    return rows


def _file(workspace: Workspace, plan: CasePlan, key: str, policy: str) -> Path:
    return workspace.episodes / f"{plan.case_id}-{key}-{re.sub('[:@]', '.', policy)}.json"


def _key(params: Params) -> str:
    """Identify what an episode depends on beside its case and its policy."""
    score = params.score.model_dump(
        mode="json", include={"method_parameters", "profile", "seed", "inject_time_error_s"}
    )
    remediate = params.remediate.model_dump(mode="json", exclude={"enabled", "policies"})
    return digest({"remediate": remediate, "score": score})[:8]


def _code(policy: Policy) -> str:
    """Return a digest of the code of its method; empty: it has none."""
    return code_digest(get_method(policy.method).module)[:12] if policy.method else ""


def _each(
    params: Params, workspace: Workspace, todo: Sequence[tuple[CasePlan, Sequence[str]]], workers: int, say: Say
) -> Iterator[CasePlan]:
    if workers <= 1:
        with contextlib.closing(Diagnoser(params.score, workspace.root)) as diagnose:
            if is_live(params):
                asked = dict.fromkeys(find_policy(name).method for _, names in todo for name in names)
                diagnose.warm_up(method for method in asked if method is not None)
            for plan, names in todo:
                run_case(params, workspace, plan, names, diagnose, say)
                yield plan
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the workers, which read it as they start
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of other threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    running = {pool.submit(_run_in_worker, params, workspace, plan, names): plan for plan, names in todo}
    try:
        for finished in as_completed(running):
            finished.result()
            yield running[finished]
    finally:
        for each in running:
            each.cancel()  # the pool forgets to when it is collected before its thread wakes
        pool.shutdown(wait=False)  # a worker ends with its case, or with this process


def _start_worker(parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def _run_in_worker(params: Params, workspace: Workspace, plan: CasePlan, names: Sequence[str]) -> None:
    run_case(params, workspace, plan, names, _diagnoser_here(params.score.model_dump_json(), workspace.root))


@functools.cache
def _diagnoser_here(score: str, hidden: Path) -> Diagnoser:
    """Return the diagnoser of this worker."""
    found = Diagnoser(ScoreParams.model_validate_json(score), hidden)
    Finalize(None, found.close, exitpriority=1)
    return found


def run_case(
    params: Params,
    workspace: Workspace,
    plan: CasePlan,
    names: Sequence[str],
    diagnose: Diagnoser,
    say: Say = log.info,
) -> None:
    """Carry out one case under these policies, in an order drawn by its seed, and keep a row for each."""
    key = _key(params)
    case = _Case(params, workspace, plan, diagnose, say)
    with contextlib.closing(case.run(names)) as rows:  # nothing outlives a full disk
        for row in rows:
            write_durably(_file(workspace, plan, key, row["policy"]), json.dumps(row, indent=1).encode())


class _Case:
    def __init__(self, params: Params, workspace: Workspace, plan: CasePlan, diagnose: Diagnoser, say: Say) -> None:
        self._params, self._workspace, self._plan, self._say = params, workspace, plan, say
        self._diagnose = diagnose
        truth: dict[str, list[str]] = {}
        for each in plan.injections:
            if each.role == ROOT:
                truth.setdefault(each.target, []).append(each.kind)
        self._truth: Truth = truth

    def run(self, names: Sequence[str]) -> Generator[Row]:
        """Yield the rows of these policies, as they end."""
        shuffled = [names[i] for i in np.random.default_rng(self._plan.seed).permutation(len(names))]
        if not is_live(self._params):
            yield from self._carried_out(shuffled)
            return
        for name in shuffled:
            self._say(f"{self._plan.label}: {name}")
            try:
                yield from self._carried_out([name])
            except RCArenaError as error:
                self._say(f"{self._plan.label}: {name} failed: {error}")

    def _carried_out(self, names: Sequence[str]) -> list[Row]:
        """Carry the case out once, under these policies: several need a ``BranchingPatient``."""
        with self._admitted() as patient:
            setting = self._setting(baseline_slo(patient, self._params.remediate))
            loops = [Loop(find_policy(name), setting, self._plan.seed) for name in names]
            rows = [row for world in run_loops(patient, loops, setting) for row in self._rows(world, setting)]
        return [{**row, "unseen": patient.unseen()} for row in rows]

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[Patient]:
        """Hold the patient. An interruption stays one, whatever could not be released: that is said."""
        patient = admit(self._params, self._workspace, self._plan, self._say)
        interrupted = False
        try:
            yield patient
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            try:
                patient.release()
            except RCArenaError as error:
                if not interrupted:
                    raise
                self._say(f"{self._plan.label}: left behind: {error}")

    def _setting(self, slo: Slo) -> Setting:
        return Setting(
            self._params.remediate,
            self._params.deploy.roles(),
            self._truth,
            slo,
            self._plan.load.request_timeout_s,
            self._diagnose,
        )

    def _rows(self, world: World, setting: Setting) -> Iterator[Row]:
        patient, judged = world.patient, verdict(world, setting)
        fault_s, horizon_s = patient.fault_s, patient.recovery_s - patient.fault_s
        since = _since(fault_s)
        series = sli_series(patient.requests(), judged.judged, fault_s, patient.recovery_s, SLI_STEP_S)
        of_world = {
            "case_id": self._plan.case_id,
            "block": self._plan.case_id,
            "seed": self._plan.seed,
            "backend": self._params.deploy.backend,
            "scenario": self._plan.scenario or "",
            "kind": "+".join(sorted({kind for kinds in self._truth.values() for kind in kinds})) or NO_FAULT,
            "target": "+".join(self._truth) or NO_FAULT,
            "detect_s": since(world.watch.alarm_s),
            "onset_s": since(world.watch.onset_s),
            "mitigate_s": since(judged.mitigated_s) if self._truth else None,
            "lasting_s": since(judged.lasting_s) if self._truth else None,
            "horizon_s": horizon_s,
            "watched_s": horizon_s - setting.params.slo.steady_s,
            "bad_request_s": judged.bad_request_s,
            "bad": judged.bad,
            "requests": judged.requests,
            "slo": asdict(setting.slo),
            "sli": series,
        }
        for loop in world.loops:
            yield {**of_world, **self._of_policy(loop, since)}

    def _of_policy(self, loop: Loop, since: Callable[[float | None], float | None]) -> Row:
        episode, policy = loop.episode, loop.policy
        taken = [each for each in episode.taken if not each.failed]
        waits_s = self._params.remediate.evidence_s if policy.evidence_s is None else policy.evidence_s
        return {
            "policy": policy.name,
            "evidence_s": waits_s if policy.method else None,
            "code": _code(policy),
            "localise_s": since(episode.diagnosed_s),
            "act_s": since(taken[0].at_s if taken else None),
            "named": episode.named or "",
            "actions": len(taken),
            "wrong": sum(is_wrong(each, self._truth) for each in taken),
            "taken": [
                {**asdict(each.proposal), "at_s": since(each.at_s), "wrong": is_wrong(each, self._truth)}
                for each in taken
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


def _since(fault_s: float) -> Callable[[float | None], float | None]:
    def since(at_s: float | None) -> float | None:
        return None if at_s is None or math.isnan(at_s) else round(at_s - fault_s, 3)

    return since
