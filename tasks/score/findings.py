"""Reads the findings of a scored campaign back from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.rca.method import FINDING_ROLES, Coverage, Evidence, Finding
from tasks.score.files import ScoreFiles, number


def read_findings(files: ScoreFiles) -> dict[tuple[str, str], tuple[Finding, ...]]:
    """Return findings by case and method, in the order of the table; an empty tuple where the method says that there
    is no fault. A method that does not say how many roots there are has no entry."""
    if files.findings is None:
        return {}
    evidence: dict[tuple[str, str, int], list[Evidence]] = {}
    for row in files.evidence.to_dict("records") if files.evidence is not None else ():
        evidence.setdefault((row["case_id"], row["method"], int(row["finding"])), []).append(_evidence(row))
    found: dict[tuple[str, str], list[Finding]] = {}
    for row in files.findings.to_dict("records"):
        of_pair = found.setdefault((row["case_id"], row["method"]), [])
        place = number(row["finding"])
        if place is not None:
            of_pair.append(_finding(row, evidence.get((row["case_id"], row["method"], int(place)), ())))
    return {pair: tuple(findings) for pair, findings in found.items()}


def read_coverage(files: ScoreFiles) -> dict[tuple[str, str], Coverage]:
    """Return which evidence a method had, by case and method; a method that does not say has no entry."""
    if files.coverage is None:
        return {}
    return {
        (str(case), str(method)): Coverage(
            tuple(rows.loc[rows["seen"], "evidence"]), tuple(rows.loc[~rows["seen"], "evidence"])
        )
        for (case, method), rows in files.coverage.groupby(["case_id", "method"], sort=False)
    }


def _finding(row: Mapping[Any, Any], evidence: list[Evidence] | tuple[()]) -> Finding:
    return Finding(
        service=row["service"] if isinstance(row["service"], str) else None,
        kind=row["kind"],
        significance=float(row["significance"]),
        role=FINDING_ROLES[FINDING_ROLES.index(row["role"])],
        onset_s=number(row["onset_s"]),
        evidence=tuple(evidence),
    )


def _evidence(row: Mapping[Any, Any]) -> Evidence:
    values = {name: number(row[name]) for name in ("before", "during", "siblings")}
    return Evidence(signal=row["signal"], sentence=row["sentence"], unit=row["unit"], **values)
