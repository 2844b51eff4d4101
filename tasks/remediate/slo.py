"""What users are promised, which requests break it, when that is an alarm, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.live_params import SloParams

MIN_BAD = 3
"""Fewer bad requests are no alarm, however rare they are otherwise."""
LONG = 4
"""Length of the long window in short ones."""
GRAVE = 10.0


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

    def due(self, since_s: float) -> Judged:
        """Return those that were due from ``since_s`` on."""
        kept = self.scheduled >= since_s
        return Judged(self.scheduled[kept], self.decided[kept], self.bad[kept], self.excess_s[kept])

    def share(self, since_s: float, until_s: float, which: np.ndarray | None = None) -> tuple[int, int]:
        """Return how many were decided in (since, until], and how many of them are bad, or are among ``which``."""
        inside = (self.decided > since_s) & (self.decided <= until_s)
        return int(inside.sum()), int((inside & (self.bad if which is None else which)).sum())


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
    excess_s = np.where(failed, timeout_s, late_first + late_last)
    known = bad | ~np.isnan(last)
    return Judged(scheduled[known], np.minimum(at, now_s)[known], bad[known], excess_s[known])


def alarm(judged: Judged, slo: Slo, now_s: float, params: SloParams) -> bool:
    """Return whether more requests are bad than the baseline explains (binomial tests): of the last window, or of one
    ``LONG`` times as long, which sees what is rare, if the last has a bad one, too. Requests that hang, later than
    ``GRAVE`` times the limit, have a test of their own: a baseline without any has at most ``1 / GRAVE`` of its share
    there, if its tail is no heavier than that of a Pareto distribution of index 1.

    Source: Beyer et al., "The Site Reliability Workbook", 2018, chapter 5 (several windows, a short one to end it).
    """
    from scipy.stats import binom

    grave = judged.excess_s >= GRAVE * slo.first_token_s
    tests = [
        (judged.share(now_s - each * params.window_s, now_s, which), share)
        for each in (1, LONG)
        for which, share in ((judged.bad, slo.bad_share), (grave, slo.bad_share / GRAVE))
    ]
    goes_on = tests[0][0][1] > 0
    limit = params.alarm_p / len(tests)
    return goes_on and any(bad >= MIN_BAD and binom.sf(bad - 1, of, share) <= limit for (of, bad), share in tests)


def onset(judged: Judged, slo: Slo, now_s: float, params: SloParams) -> float:
    """Return when the bad requests of an alarm at ``now_s`` began: the due time of a request from which on the share of
    bad ones is that of the alarm's window rather than the baseline's, most probably.

    Source: Page, "Continuous Inspection Schemes", Biometrika, 1954 (the last minimum of the cumulative sum of log
    likelihood ratios).
    """
    decided, bad = max((judged.share(now_s - each * params.window_s, now_s) for each in (1, LONG)), key=_share)
    now_share = min(max(bad / max(decided, 1), 2 * slo.bad_share), 0.99)
    order = np.argsort(judged.scheduled, kind="stable")
    of_bad, of_good = np.log(now_share / slo.bad_share), np.log((1 - now_share) / (1 - min(slo.bad_share, 0.98)))
    tail = np.cumsum(np.where(judged.bad[order], of_bad, of_good)[::-1])[::-1]
    return float(judged.scheduled[order][int(np.argmax(tail))])


def calm(judged: Judged, slo: Slo, since_s: float, until_s: float) -> bool:
    """Return whether the requests decided in (since, until] keep the SLO."""
    return _kept(*judged.share(since_s, until_s), slo)


def mitigated_at(judged: Judged, slo: Slo, since_s: float, until_s: float, params: SloParams) -> float | None:
    """Return the start of the first ``steady_s`` from ``since_s`` on whose requests keep the SLO: the share of bad ones
    is within three standard errors of the baseline's. None: not before ``until_s``."""
    starts, kept = _steady(judged, slo, since_s, until_s, params)
    return float(starts[np.argmax(kept)]) if kept.any() else None


def lasting_from(judged: Judged, slo: Slo, since_s: float, until_s: float, params: SloParams) -> float | None:
    """Return from when on every ``steady_s`` until ``until_s`` keeps the SLO, as in ``mitigated_at``, but never before
    ``since_s``. None: the last one does not."""
    starts, kept = _steady(judged, slo, since_s, until_s, params)
    if not len(kept) or not kept[-1]:
        return None
    return float(starts[np.flatnonzero(~kept)[-1] + 1] if not kept.all() else starts[0])


def _steady(
    judged: Judged, slo: Slo, since_s: float, until_s: float, params: SloParams
) -> tuple[np.ndarray, np.ndarray]:
    """Return each second at which a ``steady_s`` begins that ends by ``until_s``, and whether it keeps the SLO."""
    starts = since_s + np.arange(max(0, int(np.floor(until_s - params.steady_s - since_s + 1e-9)) + 1))
    due, bad = np.sort(judged.scheduled), np.sort(judged.scheduled[judged.bad])
    of, broken = (np.diff(np.searchsorted(each, [starts, starts + params.steady_s]), axis=0)[0] for each in (due, bad))
    return starts, np.array([_kept(int(n), int(k), slo) for n, k in zip(of, broken, strict=True)], dtype=bool)


def _share(counts: tuple[int, int]) -> float:
    return counts[1] / max(counts[0], 1)


def _kept(decided: int, bad: int, slo: Slo) -> bool:
    """The share of bad requests is within three standard errors of the baseline's."""
    return decided > 0 and bad / decided <= slo.bad_share + 3 * np.sqrt(slo.bad_share * (1 - slo.bad_share) / decided)


def _per_token(served: pd.DataFrame) -> np.ndarray:
    tokens = np.maximum(served["output_tokens"].to_numpy() - 1, 1)
    return np.asarray((served["last_token"] - served["first_token"]).to_numpy() / tokens)
