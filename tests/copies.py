"""Cases that are like another case but for what a test changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tasks.case import Case, CaseRecord, CaseWriter, SignalName


def copied(
    case: Case,
    record: CaseRecord | None = None,
    tables: Mapping[SignalName, pd.DataFrame] | None = None,
    cases_dir: Path | None = None,
) -> Case:
    """The case with another record and some other tables, beside it, or in its place if it has the same id.

    A signal that the record declares missing has no table.
    """
    record, changed = record or case.record, tables or {}
    with CaseWriter(cases_dir or case.path.parent, record.case_id) as writer:
        for signal, completeness in record.completeness.items():
            if completeness.status != "missing":
                writer.write(signal, changed[signal] if signal in changed else case.table(signal))
        return writer.finish(record)
