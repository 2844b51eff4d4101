"""The table of cases with their classes and strata, and the rank that each method gave the true service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from tasks.report.data import ReportData
from tasks.report.section import rendered, section
from tasks.score.impact import CLASSES
from tasks.score.symptoms import STRATA


@section(link="Cases", title="Cases", order=70)
def render(report: ReportData) -> Markup | None:
    if report.only_recovery:
        return None
    table = report.scoreboard.files.cases if report.scoreboard else None
    traits = case_traits(table, [case.case_id for case in report.cases])
    return rendered("cases.html.j2", report, traits=traits, counts=trait_counts(traits))


@dataclass(frozen=True)
class Traits:
    """Class and stratum of a case, and what speaks for them in a sentence. ``stratum``: empty without a root."""

    case_class: str
    reason: str
    stratum: str
    symptoms: str


def case_traits(table: pd.DataFrame | None, cases: Sequence[str]) -> Mapping[str, Traits]:
    """Return the traits of ``cases`` by case; empty if an older score stage wrote none."""
    found = {}
    for row in [] if table is None else table.to_dict("records"):
        symptoms = [
            f"{row[who]} {row[f'{who}_strength']:.3g} σ"
            + (f" ({row[f'{who}_metric']})" if row[f"{who}_metric"] else "")
            for who in ("root", "other")
            if not pd.isna(row[who])
        ]
        found[str(row["case_id"])] = Traits(row["class"], row["reason"], row["stratum"], " against ".join(symptoms))
    return {case: found[case] for case in cases if case in found}


def trait_counts(traits: Mapping[str, Traits]) -> Mapping[str, int]:
    """Return how many cases have each class and stratum, in the order of their definitions."""
    counts = Counter(each.case_class for each in traits.values())
    strata = Counter(each.stratum for each in traits.values())
    return {name: counts[name] for name in CLASSES if counts[name]} | {
        f"stratum {name}": strata[name] for name in STRATA if strata[name]
    }
