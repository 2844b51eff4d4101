"""What recovery policies did in each of two campaigns, and the difference over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.compare.statistics import Difference, Resampling, difference
from tasks.injection import NO_FAULT
from tasks.remediate.names import is_variant
from tasks.remediate.stage import read_episodes
from tasks.remediate.tables import compared_cases


@dataclass(frozen=True)
class Recovered:
    """What became of the faults of one campaign under one policy, of the ``compared_cases``.

    ``bad_request_s``, ``mitigate_s``: by case; the time of one that is not mitigated is ``watched_s``, after which no
    mitigation can be seen. ``acted``: of the ``calm`` cases without a fault, those in which somebody acted.
    """

    bad_request_s: Mapping[str, float] = field(repr=False)
    mitigate_s: Mapping[str, float] = field(repr=False)
    watched_s: float
    actions: int
    wrong: int
    calm: int
    acted: int

    @property
    def mean_bad_request_s(self) -> float | None:
        return float(np.mean(list(self.bad_request_s.values()))) if self.bad_request_s else None

    @property
    def mttm_s(self) -> float | None:
        return float(np.mean(list(self.mitigate_s.values()))) if self.mitigate_s else None

    def restricted(self, limit_s: float) -> Recovered:
        """Return the same with times of at most ``limit_s``."""
        times = {case: min(at_s, limit_s) for case, at_s in self.mitigate_s.items()}
        return replace(self, mitigate_s=times, watched_s=min(self.watched_s, limit_s))


@dataclass(frozen=True)
class RecoveryChange:
    """``logarithms``: the difference of the logarithms of bad request-seconds, plus one; ``time_s``: of the times to
    mitigate."""

    policy: str
    a: Recovered | None
    b: Recovered | None
    logarithms: Difference | None
    time_s: Difference | None

    @property
    def ratio(self) -> tuple[float, float | None, float | None] | None:
        """Bad request-seconds of the second over those of the first, with the bounds of the interval."""
        if self.logarithms is None:
            return None
        change = self.logarithms
        low, high = (None if bound is None else math.exp(bound) for bound in (change.low, change.high))
        return math.exp(change.value), low, high


def read_recovered(directory: Path) -> dict[str, Recovered]:
    """Return policy -> what it did; empty where no experiment with actions was run."""
    try:
        table = read_episodes(directory)
    except FileNotFoundError:
        return {}
    faulty = table["kind"] != NO_FAULT
    compared = table["case_id"].isin(compared_cases(table))
    return {
        str(policy): _recovered(runs[compared[runs.index]], runs[~faulty[runs.index]])
        for policy, runs in table.groupby("policy", sort=False)
        if not is_variant(str(policy))
    }


def _recovered(runs: pd.DataFrame, calm: pd.DataFrame) -> Recovered:
    cases = runs["case_id"].tolist()
    watched = runs["watched_s"] if "watched_s" in runs else runs["horizon_s"]  # older files know no better
    times = np.minimum(runs["mitigate_s"].fillna(watched), watched)
    return Recovered(
        bad_request_s=dict(zip(cases, runs["bad_request_s"].tolist(), strict=True)),
        mitigate_s=dict(zip(cases, times.tolist(), strict=True)),
        watched_s=float(watched.max()) if len(runs) else math.inf,
        actions=int(runs["actions"].sum()),
        wrong=int(runs["wrong"].sum()),
        calm=len(calm),
        acted=int((calm["actions"] > 0).sum()),
    )


def recovery_changes(
    a: Mapping[str, Recovered], b: Mapping[str, Recovered], how: Resampling
) -> tuple[RecoveryChange, ...]:
    """Return the change of each policy of either campaign; times are restricted to what both can see."""
    limit_s = min((each.watched_s for side in (a, b) for each in side.values()), default=math.inf)
    a, b = ({policy: each.restricted(limit_s) for policy, each in side.items()} for side in (a, b))
    return tuple(_change(policy, a.get(policy), b.get(policy), how) for policy in dict.fromkeys((*b, *a)))


def _change(policy: str, a: Recovered | None, b: Recovered | None, how: Resampling) -> RecoveryChange:
    bad = [{case: math.log(s + 1) for case, s in side.bad_request_s.items()} if side else {} for side in (a, b)]
    times = [side.mitigate_s if side else {} for side in (a, b)]
    return RecoveryChange(
        policy,
        a,
        b,
        difference(bad[0], bad[1], how, f"{policy}|bad_request_s"),
        difference(times[0], times[1], how, f"{policy}|mitigate_s"),
    )
