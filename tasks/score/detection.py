"""How far the detected moments of the faults were from the true ones (``score.inject_time: detected``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tasks.case import CaseRecord
from tasks.rca.builder import ViewFacts

DETECTION_COLUMNS = {
    "case_id": "str",
    "fault": "str",
    "true_time": "datetime64[ns, UTC]",
    "detected_time": "datetime64[ns, UTC]",
    "error_s": "float64",
    "detected": "bool",
}


def detection_table(records: Sequence[CaseRecord], facts: Mapping[str, ViewFacts]) -> pd.DataFrame:
    """One row per case: when the first fault began (nothing in a fault-free case), when a change was detected (nothing
    if none was), and how many seconds too late that was (negative: too early)."""
    rows = []
    for record in sorted(records, key=lambda record: record.case_id):
        found = facts[record.case_id]
        true_time = record.injection_time if record.injections else None
        rows.append((record.case_id, record.fault_label, true_time, found.inject_time or None, not found.problem))
    table = pd.DataFrame(rows, columns=[name for name in DETECTION_COLUMNS if name != "error_s"])
    for name in ("true_time", "detected_time"):
        table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
    error_s = (table["detected_time"] - table["true_time"]).dt.total_seconds()
    return table.assign(error_s=error_s).astype(DETECTION_COLUMNS)[list(DETECTION_COLUMNS)]
