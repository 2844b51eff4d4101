"""Which cases a campaign consists of. A pure function of the parameters."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.inject.catalogue import resolve_parameters, validate_inject_params
from tasks.params import Params
from tasks.stack import KubernetesDeployParams
from tasks.validation import ParamsError


@dataclass(frozen=True)
class PlannedInjection:
    """One fault of a case; times in seconds, the offset from the start of the fault window."""

    kind: str
    target: str
    parameters: dict[str, Any]
    offset_s: float
    duration_s: float

    def __str__(self) -> str:
        return f"{self.kind} → {self.target}"


@dataclass(frozen=True)
class CasePlan:
    """One experiment. ``case_id`` is derived from all that shapes its telemetry and says nothing about the fault: a
    finished case is reused exactly when it is what the parameters ask for."""

    case_id: str
    repetition: int
    seed: int
    injections: tuple[PlannedInjection, ...] = field(default=())

    @property
    def label(self) -> str:
        faults = " + ".join(map(str, self.injections)) or "fault-free"
        return faults if self.repetition == 1 else f"{faults} #{self.repetition}"


def check_params(params: Params, source: str) -> None:
    """Check what the registries of fault kinds, methods and models know.

    Raises:
        ParamsError: every problem, each naming its key in ``source``.
    """
    from tasks.score.campaign import validate_score_params  # pandas: who only plans (an Airflow worker) has none

    problems = [*validate_inject_params(params), *validate_score_params(params.score)]
    if isinstance(params.deploy, KubernetesDeployParams):
        problems += validate_deploy_params(params.deploy)
    if not params.inject.faults and not params.inject.concurrent and not params.campaign.fault_free_cases:
        problems.append("inject.faults: empty, and campaign.fault_free_cases is 0: the campaign would have no case")
    if problems:
        raise ParamsError(f"{source}: {problem}" for problem in problems)


def plan_campaign(params: Params) -> tuple[CasePlan, ...]:
    """Every case of the campaign, in a seeded random order so that no fault is always early or late."""
    window = params.campaign.windows.fault_s
    combinations: list[tuple[PlannedInjection, ...]] = [()] * params.campaign.fault_free_cases
    planned = [(index + 1, combination) for index, combination in enumerate(combinations)]
    faults: list[tuple[PlannedInjection, ...]] = [
        (PlannedInjection(spec.kind, target, _resolved(params, spec.kind, spec.parameters), 0, window),)
        for spec in params.inject.faults
        for target in spec.targets
    ]
    faults += [
        tuple(
            PlannedInjection(
                injection.kind,
                injection.target,
                _resolved(params, injection.kind, injection.parameters),
                injection.offset_s,
                injection.duration_s or window - injection.offset_s,
            )
            for injection in spec.injections
        )
        for spec in params.inject.concurrent
    ]
    repeats: dict[str, int] = {}
    for _ in range(params.campaign.repetitions):
        for combination in faults:
            key = json.dumps([asdict(injection) for injection in combination], sort_keys=True)
            repeats[key] = repeats.get(key, 0) + 1
            planned.append((repeats[key], combination))
    cases = [_case(params, repetition, combination) for repetition, combination in planned]
    random.Random(params.campaign.seed).shuffle(cases)
    return tuple(cases)


def _case(params: Params, repetition: int, injections: tuple[PlannedInjection, ...]) -> CasePlan:
    what = {
        "campaign": params.campaign.name,
        "seed": params.campaign.seed,
        "windows": params.campaign.windows.model_dump(mode="json"),
        "deploy": params.deploy.model_dump(mode="json"),
        "load": params.load.model_dump(mode="json"),
        "export": params.export.model_dump(mode="json"),
        "injections": [asdict(injection) for injection in injections],
        "repetition": repetition,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return CasePlan(f"case-{digest[:12]}", repetition, int(digest[12:20], 16), injections)


def _resolved(params: Params, kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return resolve_parameters(kind, parameters, params.deploy.backend).model_dump(mode="json")
