"""Derive the cases of a campaign from its parameters, and from nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.identity import differing, digest, resolved
from tasks.inject.catalogue import fault_kind, resolve_parameters
from tasks.injection import ROOT, InjectionSpec, PlannedInjection, case_label
from tasks.params import Params

SHAPING_SECTIONS = ("campaign", "deploy", "load", "export")
"""Sections of the parameters that every case depends on; ``inject`` is split into the cases."""


@dataclass(frozen=True)
class CasePlan:
    """One experiment.

    ``case_id`` depends on the parameters that shape telemetry and differ from their defaults; it says nothing about the
    fault. ``parameters`` are all that shape telemetry, defaults included: a finished case with the same id is reused
    when it was recorded with these.
    """

    case_id: str
    repetition: int
    seed: int
    injections: tuple[PlannedInjection, ...] = field(default=())
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        return self._numbered(case_label(self.injections))

    @property
    def short_label(self) -> str:
        """Like ``label``, but of three or more faults it names only the first."""
        return self._numbered(case_label(self.injections, most=2))

    def _numbered(self, faults: str) -> str:
        return faults if self.repetition == 1 else f"{faults} #{self.repetition}"


def plan_campaign(params: Params) -> tuple[CasePlan, ...]:
    """List the cases of the campaign in a seeded random order, so that no fault is always early or late."""
    faults = [_planned(params, specs.values()) for specs in params.inject.cases()]
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
    params: Params, specs: Iterable[InjectionSpec]
) -> tuple[tuple[PlannedInjection, ...], list[dict[str, Any]]]:
    """Resolve the injections of a case. Return them, and the part of them that the case id depends on."""
    window, backend = params.campaign.windows.fault_s, params.deploy.backend
    injections, identity = [], []
    for spec in specs:
        parameters = resolve_parameters(spec.kind, spec.parameters, backend)
        injection = spec.planned(window, parameters.model_dump(mode="json"))
        differs = differing(parameters, fault_kind(spec.kind).defaults(backend))
        injections.append(injection)
        default = {"role"} if injection.role == ROOT else None
        identity.append(injection.model_dump(exclude=default) | {"parameters": differs})
    return tuple(injections), identity


def _case(
    params: Params, repetition: int, injections: tuple[PlannedInjection, ...], identity: list[dict[str, Any]]
) -> CasePlan:
    sections = {name: getattr(params, name) for name in SHAPING_SECTIONS}
    differs = {name: differing(section) for name, section in sections.items()}
    found = digest({**differs, "injections": identity, "repetition": repetition})
    parameters = {
        **{name: resolved(section) for name, section in sections.items()},
        "injections": [injection.model_dump() for injection in injections],
    }
    return CasePlan(f"case-{found[:12]}", repetition, int(found[12:20], 16), injections, parameters)
