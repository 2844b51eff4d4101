"""Which end of a call edge is to blame when calls over it take longer than the work at their end.

The *gap* of a call is what its caller waited beyond what the callee took. A fault of a service's link delays what it
*sends*: requests to its callees, answers to its callers. So

* one of several siblings has the gap: its own link, or its own door (what siblings share is taken off);
* all callees of a caller share the gap: the caller, unless the callees are slow themselves at the same time;
* a lone callee: the end that is itself burdened (slow steps, stopped, short of CPU); if neither or both are, the caller
  if its own callers wait as well (the front end's clients) or the requests already come late, else the callee.

Gaps are compared as logarithms over an offset (``FLOOR_S`` or a tenth of the call), so that what is short against the
call counts little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.rca.features.serving import Serving
from tasks.rca.features.siblings import Change, Judge, quantile

FLOOR_S = 0.01
FLOOR_SHARE = 0.1
FLOOR = float(np.log(1.25))
LATE_START = 0.5
"""The share of a gap that lies before the callee began, from which on the caller is late."""
WAITS = 3.0
"""From so many noises on the clients of the front end wait for its answers."""
CROWDED = 1.5
"""A callee whose own steps take k times as long takes up to k to this power as long to answer the door."""


@dataclass(frozen=True)
class Links:
    """``change``: of the gap blamed on each service. ``values``: (rows, services) the strongest gap blamed on it,
    s. ``gaps``: service -> (rows,) all of them."""

    change: Change
    values: np.ndarray
    gaps: Mapping[int, Sequence[np.ndarray]]


def blame_links(
    serving: Serving,
    before: np.ndarray,
    judge: Judge,
    front_end: int,
    slowed: np.ndarray | None,
    burdened: np.ndarray,
) -> Links | None:
    """Return the gaps of the calls, each blamed on one end; None without spans, or latencies, that tell.

    ``slowed``: (services,) the change that siblings share of their step time (log), NaN or None unknown. ``burdened``:
    (services,) bool, what is slow by itself.
    """
    gap, leg = serving.get("gap"), serving.get("request_leg")
    if gap is None:
        return None
    leg = np.full(gap.shape, np.nan) if leg is None else leg
    offset = _offsets(serving, before)
    into = judge.change(_scaled(gap, offset), before, FLOOR)
    size = gap.shape[1]
    z, own = np.full(size, np.nan), np.full(size, np.nan)
    values = np.full(gap.shape, np.nan)

    gaps: dict[int, list[np.ndarray]] = {}

    def blame(service: int, strength: float, change: float, table: np.ndarray) -> None:
        gaps.setdefault(service, []).append(table)
        if strength > z[service] or np.isnan(z[service]):
            z[service], own[service], values[:, service] = strength, change, table

    clients = serving.get("client_gap")
    if clients is not None:
        waiting = judge.change(_scaled(clients, offset), before, FLOOR)
        blame(front_end, waiting.z[front_end], waiting.own[front_end], clients[:, front_end])
    late = _rise(leg, before) >= LATE_START * _rise(gap, before)
    callers: dict[int, list[int]] = {}
    for caller, called in serving.callees.items():
        for callee in called:
            callers.setdefault(callee, []).append(caller)
        if len(called) > 1:
            _blame_caller(blame, caller, np.array(called), gap, into, slowed)
    for callee, calling in callers.items():
        if judge.siblings(callee) > 1:
            blame(callee, into.z[callee], into.own[callee], gap[:, callee])
            continue
        for caller in calling:
            known = caller == front_end and clients is not None
            sender = bool(z[front_end] >= WAITS) if known else bool(late[callee])
            if burdened[caller] != burdened[callee]:
                sender = bool(burdened[caller])
            blame(caller if sender else callee, into.z[callee], into.own[callee], gap[:, callee])
    return Links(Change(z, own, np.zeros(size)), values, gaps)


def _blame_caller(
    blame: Callable[[int, float, float, np.ndarray], None],
    caller: int,
    called: np.ndarray,
    gap: np.ndarray,
    into: Change,
    slowed: np.ndarray | None,
) -> None:
    theirs = np.zeros(len(called)) if slowed is None else CROWDED * np.maximum(0.0, np.nan_to_num(slowed[called]))
    late = into.shared[called] - theirs
    with np.errstate(invalid="ignore", divide="ignore"):
        strength = quantile(late / into.alone[called], 0.5)
    blame(caller, float(strength), float(quantile(late, 0.5)), quantile(gap[:, called], 0.5))


def _offsets(serving: Serving, before: np.ndarray) -> np.ndarray:
    """Return, per callee, what is short against its calls (s)."""
    if "busy" in serving.columns:
        done = np.nansum(serving.columns["completed"][before], axis=0)
        took = np.nansum(serving.columns["busy"][before], axis=0) / np.maximum(done, 1.0)
    else:
        took = np.nan_to_num(quantile(serving.columns["latency"][before].T, 0.5))
    return np.maximum(FLOOR_S, FLOOR_SHARE * took)


def _scaled(table: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(table, 0.0) + offset)


def _rise(table: np.ndarray, before: np.ndarray) -> np.ndarray:
    return quantile(table[~before].T, 0.5) - quantile(table[before].T, 0.5)
