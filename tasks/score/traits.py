"""What a case is by itself, whatever the methods say: symptoms, impact on users, class and stratum."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from tasks.case import Case
from tasks.requests import time_out_s
from tasks.score.impact import CaseClass, Impact, class_of, front_end_impact
from tasks.score.symptoms import Stratum, Symptom, stratum_of, strongest, symptoms, weakest


@dataclass(frozen=True)
class SymptomAt:
    """The strongest symptom of ``service``; strength 0 and no metric: none is known."""

    service: str
    strength: float
    metric: str


@dataclass(frozen=True)
class CaseTraits:
    """``stratum``: empty without a root. ``root``: the root with the weakest symptom; ``other``: the strongest symptom
    of a service that is no root; None without one. ``impact``: None without requests."""

    case_class: CaseClass
    reason: str
    stratum: Stratum | None
    root: SymptomAt | None
    other: SymptomAt | None
    impact: Impact | None

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> CaseTraits:
        kinds = {"root": SymptomAt, "other": SymptomAt, "impact": Impact}
        made = {name: kind(**document[name]) if document[name] else None for name, kind in kinds.items()}
        return cls(**document | made)


def traits_of(case: Case) -> CaseTraits:
    """Return the traits of a case, by its effective roots (if none is, by all)."""
    record = case.record
    roots = frozenset(injection.target for injection in record.counted() or record.roots)
    begin, inject_time, end = (
        pd.Timestamp(moment).tz_convert("UTC").as_unit("ns")
        for moment in (
            min(phase.start for phase in record.phases),
            record.injection_time,
            (record.phase("fault") or record.phases[-1]).end,
        )
    )
    found = symptoms(case.metrics, begin, inject_time, end)
    impact = front_end_impact(case.requests, begin, inject_time, end, time_out_s(record.load.parameters))
    case_class, reason = class_of(record, impact, found, case.topology)
    return CaseTraits(
        case_class=case_class,
        reason=reason,
        stratum=stratum_of(found, roots) if roots else None,
        root=_at(weakest(found, roots)) if roots else None,
        other=_at(strongest(found, found.keys() - roots)),
        impact=impact,
    )


def _at(symptom: tuple[str, Symptom] | None) -> SymptomAt | None:
    return None if symptom is None else SymptomAt(symptom[0], symptom[1].strength, symptom[1].metric)
