"""Which services were really broken in a case, and whether the case counts."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.case import CaseRecord

NO_FAULT = "none"


@dataclass(frozen=True)
class Truth:
    """The answer of one case.

    ``services``: root causes, each once; empty for a fault-free case or one without an effective injection. ``fault``,
    ``target``: labels to group by, ``+`` between several. ``excluded``: why the case is not scored; empty if it is.
    ``notes``: injections that were left out of the truth.
    """

    case: str
    candidates: int
    services: tuple[str, ...]
    fault: str
    target: str
    excluded: str
    notes: tuple[str, ...]


def truth_of(record: CaseRecord, *, include_ineffective: bool) -> Truth:
    """The truth of a case: the targets of its effective injections, or of all with ``include_ineffective``."""
    counted = [i for i in record.injections if include_ineffective or i.verdict == "effective"]
    dropped = [i for i in record.injections if i not in counted]
    services = tuple(sorted({injection.target for injection in counted}))
    notes = tuple(
        f"{record.case_id}: {injection.kind} on {injection.target} was not effective ({injection.reason})"
        for injection in dropped
    )
    if not record.injections:
        excluded = "fault-free"
    elif not counted:
        excluded = "no effective injection"
    else:
        excluded = ""
    labelled = counted or list(record.injections)
    return Truth(
        case=record.case_id,
        candidates=len(record.stack.services),
        services=services,
        fault="+".join(sorted(injection.kind for injection in labelled)) or NO_FAULT,
        target="+".join(sorted({injection.target for injection in labelled})) or NO_FAULT,
        excluded=excluded,
        notes=notes,
    )
