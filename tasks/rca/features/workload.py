"""Whether what is asked of a stack changed: more or fewer requests, or longer prompts.

Requests come from the load's own record, else from the front end's request rate. They are counted: under the same load
the logarithm of the ratio of two counts has the variance 1/n + 1/m (Poisson arrivals), so that a few requests more say
nothing. A mean of tokens per request has its standard error. A change may hold for a part of the window only: the
whole, its first and its second half are looked at, and the p value pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from tasks.rca.features.rows import row_of
from tasks.rca.features.serving import SMOOTH_S
from tasks.rca.view import CaseView

LEAST = float(np.log(1.25))
"""Less of a change of the load, as a logarithm, explains nothing that anybody notices."""
LEAST_REQUESTS = 10
"""Fewer requests before or after say nothing of the load."""


@dataclass(frozen=True)
class Demand:
    """A measure of the load that changed. ``name``: ``requests`` (per second) or ``prompts`` (tokens per request).
    ``p``: two-sided, corrected for all that was looked at."""

    name: str
    before: float
    during: float
    p: float


def changed_demand(view: CaseView, columns: Mapping[str, np.ndarray], before: np.ndarray) -> tuple[Demand, ...]:
    """Return what changed of the load, the surest first; empty if nothing did, or nobody knows.

    ``columns``: of :class:`tasks.rca.features.serving.Serving`; ``before``: (rows,) bool.
    """
    step_s = view.step_s or 1.0
    index = pd.DatetimeIndex(view.metrics.index)
    windows = _windows(before)
    if len(view.requests) >= 2 * LEAST_REQUESTS:
        row = row_of(index, view.requests["scheduled"].dt.as_unit("ns").astype("int64").to_numpy(), view.step_ns)
        asked = view.requests["tokens_in"].to_numpy(dtype=float)
        inside = row >= 0
        tests = [
            *_counted(np.bincount(row[inside], minlength=len(index)).astype(float), before, windows, step_s),
            *_averaged([asked[inside & rows[row]] for rows in (before, *windows)]),
        ]
    else:
        rate = columns.get("request_rate")
        if rate is None:
            return ()
        arrived = rate[:, view.services.index(view.front_end)] * step_s
        tests = list(_counted(arrived, before, windows, step_s))
        if "prompt_tokens" in columns:
            each = _per_request(columns["prompt_tokens"], rate)
            thin = np.arange(len(before)) % max(1, round(SMOOTH_S / step_s)) == 0  # a rate looks back so far
            tests += _averaged([each[rows & thin] for rows in (before, *windows)])
    best: dict[str, Demand] = {}
    for test in tests:
        known = best.get(test.name)
        if known is None or test.p < known.p:
            best[test.name] = test
    corrected = [Demand(d.name, d.before, d.during, min(1.0, d.p * len(tests))) for d in best.values()]
    moved = [d for d in corrected if abs(np.log(d.during / d.before)) >= LEAST]
    return tuple(sorted(moved, key=lambda demand: demand.p))


def _windows(before: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the rows after the inject time: all, the first half, the second half."""
    rows = np.flatnonzero(~before)
    place = np.arange(len(before))
    middle = rows[len(rows) // 2]
    return ~before, ~before & (place < middle), ~before & (place >= middle)


def _counted(arrived: np.ndarray, before: np.ndarray, windows: Sequence[np.ndarray], step_s: float) -> list[Demand]:
    """Compare the arrivals per row of each window with those before; NaN: nobody counted."""
    known = np.isfinite(arrived)
    usual, found = float(arrived[before & known].sum()), []
    for rows in windows:
        now = float(arrived[rows & known].sum())
        if min(usual, now) >= LEAST_REQUESTS:
            seconds = [np.count_nonzero(of & known) * step_s for of in (before, rows)]
            rates = usual / seconds[0], now / seconds[1]
            found.append(Demand("requests", *rates, _p(np.log(rates[1] / rates[0]), np.sqrt(1 / usual + 1 / now))))
    return found


def _per_request(tokens: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Return (rows,) tokens per request over the services that tell both: one whose scrape stops takes its requests
    with it."""
    known = np.isfinite(tokens) & np.isfinite(rate)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, tokens, 0.0).sum(axis=1) / np.where(known, rate, 0.0).sum(axis=1)


def _averaged(samples: Sequence[np.ndarray]) -> list[Demand]:
    """Compare the mean of the first sample with that of each of the others."""
    known = [each[np.isfinite(each)] for each in samples]
    found = []
    for now in known[1:]:
        if min(len(known[0]), len(now)) < 2 or not (known[0].mean() > 0 and now.mean() > 0):
            continue
        error = np.sqrt(sum(each.var(ddof=1) / len(each) / each.mean() ** 2 for each in (known[0], now)))
        change = np.log(now.mean() / known[0].mean())
        found.append(Demand("prompts", float(known[0].mean()), float(now.mean()), _p(change, error)))
    return found


def _p(change: float, error: float) -> float:
    return float(2 * ndtr(-abs(change) / error)) if error > 0 else float(change == 0)
