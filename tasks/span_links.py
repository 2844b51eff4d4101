"""How the spans of a table hang together: which belong to one trace, and which span is whose parent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Traces:
    """``trace``: code of each span's trace, numbered as they appear. ``parent``: its position or -1. ``count``."""

    trace: np.ndarray
    parent: np.ndarray
    count: int


def link_spans(spans: pd.DataFrame, preference: np.ndarray | None = None) -> Traces:
    """Link spans (``trace_id``, ``span_id``, ``parent_span_id``) within their traces, by position. O(n log n).

    A parent that is not among the spans, or is the span itself, is none. Several spans may have one id (client and
    server share it in some systems): the parent is then the one with the lowest ``preference``, (n,), else the first.
    """
    rows = len(spans)
    trace, traces = pd.factorize(spans["trace_id"])
    ids, known = pd.factorize(pd.concat([spans["span_id"], spans["parent_span_id"]], ignore_index=True))
    offset = trace.astype(np.int64) * max(len(known), 1)
    own, wanted = offset + ids[:rows], offset + ids[rows:]
    order = np.argsort(own, kind="stable") if preference is None else np.lexsort((preference, own))
    found = np.minimum(np.searchsorted(own, wanted, sorter=order), max(rows - 1, 0))
    parent = order[found]
    valid = (ids[rows:] >= 0) & (own[parent] == wanted) & (parent != np.arange(rows))
    return Traces(trace=trace, parent=np.where(valid, parent, -1), count=len(traces))
