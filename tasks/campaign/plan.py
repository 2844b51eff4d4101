"""Which cases a campaign consists of. A pure function of the parameters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.identity import differing, digest, resolved
from tasks.inject.catalogue import fault, resolve_parameters, validate_inject_params
from tasks.params import InjectionSpec, Params
from tasks.validation import ParamsError

SHAPING_SECTIONS = ("campaign", "deploy", "load", "export")
"""Sections of the parameters that every case depends on; ``inject`` is split into the cases."""


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
    """One experiment. ``case_id`` is derived from what shapes its telemetry and is not the default, and says nothing
    about the fault. ``parameters``: all that shapes its telemetry, defaults spelled out; a finished case with the id is
    reused when it was recorded with these."""

    case_id: str
    repetition: int
    seed: int
    injections: tuple[PlannedInjection, ...] = field(default=())
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        return self._numbered(" + ".join(map(str, self.injections)) or "fault-free")

    @property
    def short_label(self) -> str:
        """As ``label``, but one of three or more faults stands for all."""
        if len(self.injections) < 3:
            return self.label
        return self._numbered(f"{self.injections[0]} + {len(self.injections) - 1} more")

    def _numbered(self, faults: str) -> str:
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
    combinations: list[tuple[InjectionSpec, ...]] = [
        (InjectionSpec(kind=spec.kind, target=target, parameters=spec.parameters),)
        for spec in params.inject.faults
        for target in spec.targets
    ]
    combinations += [spec.injections for spec in params.inject.concurrent]
    faults = [_planned(params, injections) for injections in combinations]
    planned = [_planned(params, ())] * params.campaign.fault_free_cases + faults * params.campaign.repetitions
    repetitions: dict[str, int] = {}
    cases = []
    for injections, identity in planned:
        key = digest(identity)
        repetitions[key] = repetitions.get(key, 0) + 1
        cases.append(_case(params, repetitions[key], injections, identity))
    random.Random(params.campaign.seed).shuffle(cases)
    return tuple(cases)


def _planned(
    params: Params, specs: tuple[InjectionSpec, ...]
) -> tuple[tuple[PlannedInjection, ...], list[dict[str, Any]]]:
    """What is injected, and what of it makes the case another one."""
    window, backend = params.campaign.windows.fault_s, params.deploy.backend
    injections, identity = [], []
    for spec in specs:
        parameters = resolve_parameters(spec.kind, spec.parameters, backend)
        injection = PlannedInjection(
            spec.kind,
            spec.target,
            parameters.model_dump(mode="json"),
            spec.offset_s,
            window - spec.offset_s if spec.duration_s is None else spec.duration_s,
        )
        injections.append(injection)
        identity.append(asdict(injection) | {"parameters": differing(parameters, fault(spec.kind).defaults(backend))})
    return tuple(injections), identity


def _case(
    params: Params, repetition: int, injections: tuple[PlannedInjection, ...], identity: list[dict[str, Any]]
) -> CasePlan:
    sections = {name: getattr(params, name) for name in SHAPING_SECTIONS}
    differs = {name: differing(section) for name, section in sections.items()}
    found = digest({**differs, "injections": identity, "repetition": repetition})
    parameters = {
        **{name: resolved(section) for name, section in sections.items()},
        "injections": [asdict(injection) for injection in injections],
    }
    return CasePlan(f"case-{found[:12]}", repetition, int(found[12:20], 16), injections, parameters)
