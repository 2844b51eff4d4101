"""The checked cases of a campaign that is to be recorded, and its id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.case import MANIFEST_FILE, Case, finished_cases, read_case, validate_case
from tasks.identity import differing, digest
from tasks.params import Params
from tasks.record.errors import RecordError
from tasks.remediate.stage import TABLES, read_tables
from tasks.text import some
from tasks.workspace import Workspace


@dataclass(frozen=True)
class CheckedCases:
    """Finished cases, and ``missing``: planned ones that are not finished."""

    cases: tuple[Case, ...]
    missing: tuple[CasePlan, ...]

    @property
    def planned(self) -> int:
        return len(self.cases) + len(self.missing)


def campaign_id(place: Workspace, params: Params) -> str:
    """Return the id of a campaign, a digest of its telemetry, its scoring parameters and what actions did, if any.

    Hashes the manifests of cases, which contain the checksums of all their files.

    Raises:
        RecordError: there is no finished case.
    """
    manifests = {path.name: _sha256(path / MANIFEST_FILE) for path in finished_cases(place.cases)}
    if not manifests:
        raise RecordError(f"{place.cases}: no finished case to record; collect some first")
    what: dict[str, Any] = {
        "campaign": params.campaign.name,
        "cases": manifests,
        "score": differing(params.score),
    }
    if read_tables(place.remediation) is not None:
        what["remediation"] = _sha256(place.remediation / TABLES)
    return digest(what)[:16]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_cases(cases_dir: Path, params: Params, *, allow_missing: bool) -> CheckedCases:
    """Return the finished cases, each valid by the case contract and planned by ``params``.

    Raises:
        RecordError: one line per problem.
    """
    paths = finished_cases(cases_dir)
    problems = [f"{path.name}: {problem}" for path in paths for problem in validate_case(path)]
    plans = {plan.case_id: plan for plan in plan_campaign(params)}
    foreign = [path.name for path in paths if path.name not in plans]
    if foreign:
        problems.append(
            f"{some(foreign)}: the parameters do not ask for {'them' if len(foreign) > 1 else 'it'}; give the "
            "parameters that the campaign was collected with (--params)"
        )
    there = {path.name for path in paths}
    missing = [plan for case_id, plan in plans.items() if case_id not in there]
    if missing and not allow_missing:
        names = some([f"{plan.short_label} ({plan.case_id})" for plan in missing])
        problems.append(
            f"{len(missing)} of {len(plans)} cases are missing: {names}; collect them, or record without "
            "(--allow-missing)"
        )
    if problems:
        raise RecordError("\n".join(problems))
    return CheckedCases(tuple(read_case(path) for path in paths), tuple(missing))
