"""Derive the cases of a campaign from its parameters, and from nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.identity import differing, digest, resolved
from tasks.inject.catalogue import fault_kind, resolve_parameters
from tasks.injection import ROOT, InjectionSpec, PlannedInjection, case_label
from tasks.params import AskedCase, LoadParams, Params

SHAPING_SECTIONS = ("campaign", "deploy", "load", "export")
"""Sections of the parameters that every case depends on; ``inject`` is split into the cases."""


@dataclass(frozen=True)
class CasePlan:
    """One experiment.

    ``case_id`` depends on the parameters that shape telemetry and differ from their defaults; it says nothing about the
    fault. ``load``: of this case. ``scenario``: the name of the entry of ``inject.scenarios`` that asks for it.
    ``parameters`` are all that shape telemetry, defaults included: a finished case with the same id is reused when it
    was recorded with these.
    """

    case_id: str
    repetition: int
    seed: int
    load: LoadParams
    injections: tuple[PlannedInjection, ...] = ()
    scenario: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        return self._numbered(case_label(self.injections))

    @property
    def short_label(self) -> str:
        """Like ``label``, but of three or more faults it names only the first."""
        return self._numbered(case_label(self.injections, most=2))

    @property
    def is_negative(self) -> bool:
        """True if nothing in the case is a root cause."""
        return all(injection.role != ROOT for injection in self.injections)

    def _numbered(self, faults: str) -> str:
        text = faults if self.scenario is None else f"{self.scenario}: {faults}"
        return text if self.repetition == 1 else f"{text} #{self.repetition}"


def plan_campaign(params: Params) -> tuple[CasePlan, ...]:
    """List the cases of the campaign in a seeded random order, so that no fault is always early or late."""
    asked = [AskedCase({}, params.campaign.fault_free_cases), *params.inject.cases(params.campaign.repetitions)]
    repetitions: Counter[str] = Counter()
    cases = []
    for each in asked:
        injections, identity = _planned(params, each.injections.values())
        load, name = params.load_of(each.scenario), each.scenario.name if each.scenario else None
        key = digest([identity, differing(load)])
        differs, parameters = _shaping(params, load, injections)
        for _ in range(each.repetitions):
            repetitions[key] += 1
            found = digest({**differs, "injections": identity, "repetition": repetitions[key]})
            seed = int(found[12:20], 16)
            plan = CasePlan(f"case-{found[:12]}", repetitions[key], seed, load, injections, name, parameters)
            cases.append(plan)
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


def _shaping(
    params: Params, load: LoadParams, injections: tuple[PlannedInjection, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of the shaping sections differs from the defaults, and all parameters that shape telemetry."""
    sections = {name: getattr(params, name) for name in SHAPING_SECTIONS} | {"load": load}
    parameters = {
        **{name: resolved(section) for name, section in sections.items()},
        "injections": [injection.model_dump() for injection in injections],
    }
    return {name: differing(section) for name, section in sections.items()}, parameters
