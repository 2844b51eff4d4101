"""What users saw of a case at the front end, and its class by cause and effect. Definitions: docs/scores.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from tasks.case import CALLS, CaseRecord
from tasks.requests import outcomes
from tasks.score.symptoms import SYMPTOM, Symptom

CaseClass = Literal["ineffective", "absorbed", "attributed", "unexplained", "contaminated", "unknown", "negative"]
CLASSES: tuple[CaseClass, ...] = get_args(CaseClass)

LEVEL = 0.01
"""Significance of an impact, over both tests."""
HEALTHY_FAILURES = 0.01
"""Share of requests that may fail while nothing is wrong."""
_SLOW = 0.95


@dataclass(frozen=True)
class Impact:
    """Requests before and during the fault: how many there were, failed, and were slow (slower than 95 % of those
    before, or failed), with the one-sided p values of "no more than before"."""

    before: int
    during: int
    failed_before: int
    failed_during: int
    slow_before: int
    slow_during: int
    p_failed: float
    p_slow: float

    @property
    def seen(self) -> bool:
        """Users saw the fault: more requests failed, or more were slow. Bonferroni's correction for two tests."""
        return min(self.p_failed, self.p_slow) * 2 <= LEVEL

    @property
    def impaired_before(self) -> bool:
        """More requests failed before the fault than ``HEALTHY_FAILURES`` allows."""
        from scipy.stats import binom

        return bool(binom.sf(self.failed_before - 1, self.before, HEALTHY_FAILURES) <= LEVEL)


def front_end_impact(
    requests: pd.DataFrame,
    begin: pd.Timestamp,
    inject_time: pd.Timestamp,
    end: pd.Timestamp,
    timeout_s: float | None = None,
) -> Impact | None:
    """Compare the requests scheduled in [inject time, end) with those in [begin, inject time); None without both."""
    from scipy.stats import hypergeom

    requests = requests[(requests["scheduled"] >= begin) & (requests["scheduled"] < end)]
    during = (requests["scheduled"] >= inject_time).to_numpy()
    n, m = int((~during).sum()), int(during.sum())
    if n == 0 or m == 0:
        return None
    outcome = outcomes(requests, timeout_s, inject_time)
    failed, latency = outcome["failed"].to_numpy(dtype=bool), outcome["latency_s"].to_numpy(dtype=float)
    served = latency[~during & ~failed]
    limit = float(np.quantile(served, _SLOW)) if len(served) else math.inf
    slow = failed | (latency > limit)
    counts = tuple(int(each[side].sum()) for each in (failed, slow) for side in (~during, during))
    p_failed, p_slow = (float(hypergeom.sf(counts[i + 1] - 1, n + m, counts[i] + counts[i + 1], m)) for i in (0, 2))
    failed_before, failed_during, slow_before, slow_during = counts
    return Impact(n, m, failed_before, failed_during, slow_before, slow_during, p_failed, p_slow)


def class_of(
    record: CaseRecord, impact: Impact | None, found: Mapping[str, Symptom], calls: pd.DataFrame
) -> tuple[CaseClass, str]:
    """Return the class of a case and why. ``found``: symptoms by service; ``calls``: the topology of the case."""
    roots = record.counted()
    if not record.roots:
        return "negative", "no root cause"
    if not roots:
        return "ineffective", "no probe saw an effect"
    if impact is None:
        return "unknown", "no requests recorded before and during the fault"
    if impact.impaired_before:
        failed = f"{impact.failed_before} of {impact.before} requests failed before the fault"
        return "contaminated", failed
    if not impact.seen:
        return "absorbed", "requests are as before"
    other = _other_causes(record)
    if other:
        return "contaminated", f"requests got worse, but so may {other} have made them"
    linked = _callees(record.front_end, calls)
    targets = sorted({root.target for root in roots})
    shown = [t for t in targets if t in found and found[t].strength >= SYMPTOM]
    if not shown:
        return "unexplained", "requests got worse, and no metric of a root did"
    if linked and not linked & set(shown):
        return "unexplained", "requests got worse, and no call leads from the front end to a root with a symptom"
    return "attributed", f"requests got worse, and so did {', '.join(shown)}"


def _other_causes(record: CaseRecord) -> str:
    """Return what else than a root may have made requests slower; empty if nothing is known."""
    if record.load.verdict == "fell-behind":
        return "the load generator, which fell behind,"
    disturbances = record.disturbances()
    if disturbances:
        return ", ".join(str(each) for each in disturbances)
    asked = record.load.parameters
    if asked.get("shapes"):
        return "the shape of the load"
    if asked.get("long_prompts"):
        return "the long prompts"
    return ""


def _callees(front_end: str, topology: pd.DataFrame) -> set[str]:
    """Return the front end and all that it calls, directly or not; empty if no call is known."""
    calls = topology[topology["relation"].astype(str) == CALLS]
    called: dict[str, set[str]] = {}
    for source, target in zip(calls["source"].astype(str), calls["target"].astype(str), strict=True):
        called.setdefault(source, set()).add(target)
    if not called:
        return set()
    found, open_services = {front_end}, [front_end]
    while open_services:
        new = called.get(open_services.pop(), set()) - found
        found |= new
        open_services += new
    return found
