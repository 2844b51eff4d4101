"""Link spans: find parents, calls between services, and how long a call took.

A call into a service is a span whose parent is of another service or is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

MAX_CALL_DEPTH = 16
"""The number of spans of one service above a call that are looked at."""


@dataclass(frozen=True)
class Traces:
    """Links within a table of spans, by position.

    ``trace``: code of each span's trace, numbered as they appear; ``count`` of them. ``parent``: its position or -1.
    """

    trace: np.ndarray
    parent: np.ndarray
    count: int

    def callers(self, service: np.ndarray) -> np.ndarray:
        """Return the service of each span's parent, -1 where no parent is known. ``service``: code of each span's."""
        return np.where(self.parent >= 0, service[self.parent], -1)

    def calls(self, service: np.ndarray) -> np.ndarray:
        """Return the positions of the calls into a service. ``service``: code of each span's service, 0 or more."""
        return np.flatnonzero(self.callers(service) != service)

    def caller_span(
        self, call: np.ndarray, service: np.ndarray, length: np.ndarray, climbable: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the position of the caller's span around each call, -1 where no caller is known.

        It is the innermost span of the caller whose ``length`` is at least the call's, its outermost if none is: some
        frameworks end the span next to the call when the callee accepts it, not when it answers.

        Args:
            call: (calls,) positions of calls into a service.
            service: (spans,) codes.
            length: (spans,) what is compared: durations, or ends.
            climbable: (spans,) bool, the spans that may be looked at beyond the one next to the call; None: all.
        """
        around = self.parent[call]
        for _ in range(MAX_CALL_DEPTH):
            above = np.where(around >= 0, self.parent[around], -1)
            climbs = (above >= 0) & (length[around] < length[call]) & (service[above] == service[around])
            if climbable is not None:
                climbs &= climbable[above]
            if not climbs.any():
                break
            around = np.where(climbs, above, around)
        return around


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


def service_calls(spans: pd.DataFrame) -> list[tuple[str, str]]:
    """Return caller and callee of every pair of services that the spans show, sorted."""
    service, names = pd.factorize(spans["service"].astype(str))
    callers = link_spans(spans).callers(service)
    crossing = (callers >= 0) & (callers != service)
    pairs = np.unique(np.column_stack([callers[crossing], service[crossing]]), axis=0)
    return sorted((str(names[caller]), str(names[callee])) for caller, callee in pairs)


def span_ends(spans: pd.DataFrame) -> np.ndarray:
    """Return the end of each span in nanoseconds since the epoch; every span must have a duration."""
    starts = pd.DatetimeIndex(spans["start"]).as_unit("ns").asi8
    return starts + np.rint(spans["duration"].to_numpy(dtype=float) * 1e9).astype(np.int64)
