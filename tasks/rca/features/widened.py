"""A view whose metrics are joined by what is counted in logs and spans, for methods of metrics that become
multi-source by it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from tasks.rca.features.events import LogLines, MetricRows, log_counts, span_columns
from tasks.rca.features.spans import span_table
from tasks.rca.view import CaseView


def with_events(view: CaseView, *, log_lines: LogLines, spans: bool) -> CaseView:
    """Return ``view`` with more columns in ``metrics``: log lines per row and, with ``spans``, error spans and mean
    span duration of each operation (:mod:`tasks.rca.features.events`), of the candidates only. O(rows x columns +
    events)."""
    clock = MetricRows(view)
    tables = [*log_counts(view, clock, log_lines)]
    if spans:
        tables += span_columns(span_table(view), clock)
    known = [table.loc[:, table.columns.get_level_values(0).isin(view.services)] for table in tables]
    return replace(view, metrics=pd.concat([view.metrics, *(t.set_axis(view.metrics.index) for t in known)], axis=1))
