"""Checks the findings that a method returns and puts them in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tasks.rca.method import FINDING_ROLES, Coverage, Evidence, Finding

NO_SERVICE = "(none of the services)"


def finding_problem(findings: object, services: Sequence[str]) -> str:
    """Return what is wrong with the findings of a ranking over ``services``; empty if nothing is.

    Raises:
        TypeError, ValueError: a value has the wrong type.
    """
    if findings is None:
        return ""
    if not isinstance(findings, tuple) or not all(isinstance(finding, Finding) for finding in findings):
        return "returned findings that are not a tuple of Finding"
    for finding in findings:
        problem = _problem(finding, services)
        if problem:
            return f"returned a finding on '{_place(finding)}' {problem}"
    named = Counter((finding.service, finding.kind) for finding in findings)
    for (service, kind), times in named.items():
        if times > 1:
            return f"returned {kind} on '{service or NO_SERVICE}' twice in its findings"
    roles = {(finding.service, finding.role) for finding in findings}
    both = [service for service in services if all((service, role) in roles for role in FINDING_ROLES)]
    return f"returned '{both[0]}' as root and as victim" if both else ""


def ordered_findings(findings: Sequence[Finding] | None, services: Sequence[str]) -> tuple[Finding, ...] | None:
    """Return findings with plain values: roots before victims, then by significance, onset, place in ``services`` and
    kind. Evidence keeps its order."""
    if findings is None:
        return None
    place = {service: i for i, service in enumerate(services)}

    def key(finding: Finding) -> tuple[object, ...]:
        onset = math.inf if finding.onset_s is None else finding.onset_s
        where = -1 if finding.service is None else place[finding.service]
        return FINDING_ROLES.index(finding.role), finding.significance, onset, where, finding.kind

    return tuple(sorted(map(_plain, findings), key=key))


def coverage_problem(coverage: object) -> str:
    """Return what is wrong with the coverage of a ranking; empty if nothing is."""
    if coverage is None:
        return ""
    if not isinstance(coverage, Coverage):
        return "returned a coverage that is no Coverage"
    names = (*coverage.seen, *coverage.missing)
    if not all(map(_is_text, names)):
        return "returned a coverage with a name that is no text"
    both = [name for name in coverage.missing if name in coverage.seen]
    return f"returned '{both[0]}' as seen and as missing evidence" if both else ""


def plain_coverage(coverage: Coverage | None) -> Coverage | None:
    """Return coverage with plain values, each name once, in its order."""
    if coverage is None:
        return None
    return Coverage(*(tuple(dict.fromkeys(map(_line, names))) for names in (coverage.seen, coverage.missing)))


def _place(finding: Finding) -> str:
    return NO_SERVICE if finding.service is None else str(finding.service)


def _problem(finding: Finding, services: Sequence[str]) -> str:
    if finding.service is not None and finding.service not in services:
        return "which is not a candidate service"
    if not _is_text(finding.kind):
        return "without a kind"
    if finding.role not in FINDING_ROLES:
        return f"with the role '{finding.role}'; choose from: {', '.join(FINDING_ROLES)}"
    if finding.service is None and finding.role != "root":
        return "that is a victim; a victim is a service"
    if not 0 <= float(finding.significance) <= 1:
        return f"with the significance {finding.significance}, which is not between 0 and 1"
    if not _finite_or_none(finding.onset_s):
        return "with an onset that is not finite"
    if not isinstance(finding.evidence, tuple) or not all(isinstance(each, Evidence) for each in finding.evidence):
        return "whose evidence is not a tuple of Evidence"
    for each in finding.evidence:
        if not (_is_text(each.signal) and _is_text(each.sentence) and isinstance(each.unit, str)):
            return "with evidence that has no signal or no sentence"
        if not all(map(_finite_or_none, (each.before, each.during, each.siblings))):
            return f"with evidence on {each.signal} that is not finite; None says that a value is not known"
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _finite_or_none(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _plain(finding: Finding) -> Finding:
    """Return a finding whose values are those of Python, whatever library the method took them from."""
    return Finding(
        None if finding.service is None else str(finding.service),
        _line(finding.kind),
        float(finding.significance),
        FINDING_ROLES[FINDING_ROLES.index(finding.role)],
        _number(finding.onset_s),
        tuple(
            Evidence(
                _line(each.signal),
                _line(each.sentence),
                _line(each.unit),
                _number(each.before),
                _number(each.during),
                _number(each.siblings),
            )
            for each in finding.evidence
        ),
    )


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
