"""Equal steps of time, with a boundary at the inject time, to count events in: no step mixes before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.rca.features.rows import step_of
from tasks.rca.method import MethodError
from tasks.rca.view import CaseView

STEP_WITHOUT_METRICS_NS = 5_000_000_000
MAX_STEPS = 100_000


@dataclass(frozen=True)
class Steps:
    """Whole steps of ``length_ns``, of which ``before`` end by the inject time and ``after`` begin at or after it."""

    inject_ns: int
    length_ns: int
    before: int
    after: int

    def __len__(self) -> int:
        return self.before + self.after

    def place(self, times_ns: np.ndarray) -> np.ndarray:
        """Return the step of each time, -1 for times outside."""
        step = (times_ns - self.inject_ns) // self.length_ns + self.before
        return np.where((step >= 0) & (step < len(self)), step, -1)


def steps_of(view: CaseView, event_times_ns: np.ndarray) -> Steps:
    """Return the steps of the metrics of ``view``: as long as theirs, over the time that they cover."""
    inject = view.inject_time.value
    rows = np.unique(pd.DatetimeIndex(view.metrics.index).as_unit("ns").asi8)
    if len(rows) > 1:
        length = view.step_ns or step_of(view.metrics.index)
        begin, end = int(rows[0]), int(rows[-1]) + length
    elif len(event_times_ns):
        length = STEP_WITHOUT_METRICS_NS
        begin, end = int(event_times_ns.min()), int(event_times_ns.max())
    else:
        return Steps(inject, STEP_WITHOUT_METRICS_NS, 0, 0)
    steps = Steps(inject, length, before=max(0, (inject - begin) // length), after=max(0, (end - inject) // length))
    if len(steps) > MAX_STEPS:
        raise MethodError(f"{len(steps)} steps of {length / 1e9:g} s; this method stops at {MAX_STEPS}")
    return steps
