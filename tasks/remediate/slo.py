"""What users are promised, which requests break it, when that is an alarm, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.params import SloParams

MIN_BAD = 3
"""Fewer bad requests are no alarm, however rare they are otherwise."""


@dataclass(frozen=True)
class Slo:
    """A request is bad above ``first_token_s`` or ``per_token_s`` (seconds), or when it fails; ``bad_share``: of the
    baseline's requests."""

    first_token_s: float
    per_token_s: float
    bad_share: float


@dataclass(frozen=True)
class Judged:
    """Requests whose fate is decided, shape (requests,) each: when they were due, when it was decided (s), whether they
    are bad, and by how many seconds."""

    scheduled: np.ndarray
    decided: np.ndarray
    bad: np.ndarray
    excess_s: np.ndarray

    def share(self, since_s: float, until_s: float) -> tuple[int, int]:
        """Return how many were decided in (since, until], and how many of them are bad."""
        inside = (self.decided > since_s) & (self.decided <= until_s)
        return int(inside.sum()), int((inside & self.bad).sum())


def promised(baseline: pd.DataFrame, params: SloParams, now_s: float) -> Slo:
    """Return the SLO that the served requests of the baseline set (``Patient.requests``), looked at ``now_s``.

    Raises:
        ValueError: none was served.
    """
    served = baseline[baseline["last_token"].notna() & ~baseline["failed"]]
    if served.empty:
        raise ValueError("no request of the baseline was served")
    first = (served["first_token"] - served["scheduled"]).to_numpy()
    per_token = _per_token(served)
    of_first, of_token = (params.slack * float(np.quantile(each, params.quantile)) for each in (first, per_token))
    judged = judge(baseline, Slo(of_first, of_token, 0.0), now_s, 0.0)
    return Slo(of_first, of_token, max(float(judged.bad.mean()), 1 / len(baseline)))


def judge(requests: pd.DataFrame, slo: Slo, now_s: float, timeout_s: float) -> Judged:
    """Judge what is decided by ``now_s``. A failed request is bad by ``timeout_s``, one that is late by the time beyond
    its limits; one that is overdue counts from the moment at which its limit passed."""
    scheduled, first, last = (requests[name].to_numpy() for name in ("scheduled", "first_token", "last_token"))
    failed = requests["failed"].to_numpy(dtype=bool)
    tokens = np.maximum(requests["output_tokens"].to_numpy() - 1, 1)
    due_first = scheduled + slo.first_token_s
    late_first = np.where(
        np.isnan(first), np.where(now_s > due_first, np.minimum(now_s, 1e18) - due_first, 0), first - due_first
    )
    due_last = first + slo.per_token_s * tokens
    late_last = np.where(np.isnan(last), np.where(now_s > due_last, now_s - due_last, 0), last - due_last)
    late_first, late_last = (np.nan_to_num(np.maximum(each, 0), posinf=0) for each in (late_first, late_last))
    bad = failed | (late_first > 0) | (late_last > 0)
    at = np.where(late_first > 0, due_first, np.where(late_last > 0, due_last, last))
    at = np.where(failed & np.isnan(at), due_first, at)
    excess_s = np.where(failed, np.maximum(late_first + late_last, timeout_s), late_first + late_last)
    known = bad | ~np.isnan(last)
    return Judged(scheduled[known], np.minimum(at, now_s)[known], bad[known], excess_s[known])


def alarm(judged: Judged, slo: Slo, now_s: float, params: SloParams) -> bool:
    """Return whether more requests of the last window are bad than the baseline's share explains (binomial test)."""
    from scipy.stats import binom

    decided, bad = judged.share(now_s - params.window_s, now_s)
    return bad >= MIN_BAD and bool(binom.sf(bad - 1, decided, slo.bad_share) <= params.alarm_p)


def calm(judged: Judged, slo: Slo, since_s: float, until_s: float) -> bool:
    """Return whether the requests decided in (since, until] keep the SLO."""
    return _kept(*judged.share(since_s, until_s), slo)


def mitigated_at(judged: Judged, slo: Slo, since_s: float, until_s: float, params: SloParams) -> float | None:
    """Return the start of the first ``steady_s`` from ``since_s`` on whose requests keep the SLO: the share of bad ones
    is within three standard errors of the baseline's. None: not before ``until_s``."""
    start = since_s
    while start + params.steady_s <= until_s:
        inside = (judged.scheduled >= start) & (judged.scheduled < start + params.steady_s)
        if _kept(int(inside.sum()), int(judged.bad[inside].sum()), slo):
            return start
        start += 1.0
    return None


def _kept(decided: int, bad: int, slo: Slo) -> bool:
    """The share of bad requests is within three standard errors of the baseline's."""
    return decided > 0 and bad / decided <= slo.bad_share + 3 * np.sqrt(slo.bad_share * (1 - slo.bad_share) / decided)


def _per_token(served: pd.DataFrame) -> np.ndarray:
    tokens = np.maximum(served["output_tokens"].to_numpy() - 1, 1)
    return np.asarray((served["last_token"] - served["first_token"]).to_numpy() / tokens)
