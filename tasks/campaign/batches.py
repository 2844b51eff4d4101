"""Cases that a pod makes one after the other, where a case takes seconds and a pod takes as long to start."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.backends import find
from tasks.params import Params

POD_S = 120.0
"""Work (s) beside which the start of a pod does not count, and after which a lost pod costs little."""


def batches(params: Params, cases: Sequence[str], runs: int = 1) -> list[list[str]]:
    """Return the cases in batches, in their order; nothing on a backend that needs a stack for them. ``runs``: how
    often each case is gone through."""
    backend = find(params.deploy.backend)
    if not backend.makes_cases():
        return []
    case_s = backend.case_s(params.deploy, params.campaign.windows.total_s)
    size = params.campaign.cases_per_pod or max(1, math.floor(POD_S / (case_s * runs)))
    return [list(cases[start : start + size]) for start in range(0, len(cases), size)]
