"""How far the detected moments of the faults were from the true ones (``score.inject_time: detected``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tasks.case import CaseRecord
from tasks.rca.run.builder import ViewFacts
from tasks.score.files import DETECTION_TABLE


def detection_table(
    records: Sequence[CaseRecord], facts: Mapping[str, ViewFacts], *, include_ineffective: bool = False
) -> pd.DataFrame:
    """One row per case: when the first root that counts began (nothing in a case without a root), when a change was
    detected (nothing if none was), and how many seconds too late that was (negative: too early).

    A case with roots of which none counts is left out: there is nothing to detect, and yet something was done.
    """
    rows = []
    for record in sorted(records, key=lambda record: record.case_id):
        counted = record.counted(include_ineffective=include_ineffective)
        if record.roots and not counted:
            continue
        found = facts[record.case_id]
        true_time = record.injection_time_of(counted) if counted else None
        fault = record.labels_of(counted).fault
        rows.append((record.case_id, fault, true_time, found.inject_time or None, not found.problem))
    table = pd.DataFrame(rows, columns=[name for name in DETECTION_TABLE.columns if name != "error_s"])
    for name in ("true_time", "detected_time"):
        table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
    error_s = (table["detected_time"] - table["true_time"]).dt.total_seconds()
    return table.assign(error_s=error_s).astype(dict(DETECTION_TABLE.columns))[list(DETECTION_TABLE.columns)]
