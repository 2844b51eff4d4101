"""Which end of a call edge is to blame when calls over it take longer than the work at their end.

The *gap* of a call is what its caller waited beyond what the callee took. A fault of a service's link delays what it
*sends*: requests to its callees, answers to its callers. So

* one of several siblings has the gap: its own link, or its own door (what siblings share is taken off);
* all callees of a caller share the gap: the caller, unless the callees are slow themselves at the same time;
* a lone callee: the caller if the requests already come late or the caller's own callers wait as well, else the callee.

Gaps are compared as logarithms over an offset (``FLOOR_S`` or a tenth of the call), so that what is short against the
call counts little.
"""

from __future__ import annotations

from collections.abc import Callable
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
CROWDED = float(np.log(1.3))
"""From this common slowdown of the callees' own steps on a common gap is theirs."""


@dataclass(frozen=True)
class Links:
    """``change``: of the gap blamed on each service. ``values``: (rows, services) the gap blamed on it, s."""

    change: Change
    values: np.ndarray


def blame_links(
    serving: Serving, before: np.ndarray, judge: Judge, front_end: int, crowded: np.ndarray | None
) -> Links | None:
    """Return the gaps of the calls, each blamed on one end; None without spans that tell.

    ``crowded``: (services,) the common change of the siblings' step time (log), if known.
    """
    gap, leg = serving.get("gap"), serving.get("request_leg")
    if gap is None or leg is None:
        return None
    offset = _offsets(serving, before)
    into = judge.change(_scaled(gap, offset), before, FLOOR)
    size = gap.shape[1]
    z, own = np.full(size, np.nan), np.full(size, np.nan)
    values = np.full(gap.shape, np.nan)

    def blame(service: int, strength: float, change: float, table: np.ndarray) -> None:
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
            _blame_caller(blame, caller, np.array(called), gap, into, crowded)
    for callee, calling in callers.items():
        if judge.siblings(callee) > 1:
            blame(callee, into.z[callee], into.own[callee], gap[:, callee])
            continue
        for caller in calling:
            known = caller == front_end and clients is not None
            sender = bool(z[front_end] >= WAITS) if known else bool(late[callee])
            blame(caller if sender else callee, into.z[callee], into.own[callee], gap[:, callee])
    return Links(Change(z, own, np.zeros(size)), values)


def _blame_caller(
    blame: Callable[[int, float, float, np.ndarray], None],
    caller: int,
    called: np.ndarray,
    gap: np.ndarray,
    into: Change,
    crowded: np.ndarray | None,
) -> None:
    if crowded is not None and np.nanmax(crowded[called], initial=0.0) > CROWDED:
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        strength = quantile(into.shared[called] / into.alone[called], 0.5)
    blame(caller, float(strength), float(quantile(into.shared[called], 0.5)), quantile(gap[:, called], 0.5))


def _offsets(serving: Serving, before: np.ndarray) -> np.ndarray:
    """Return, per callee, what is short against its calls (s)."""
    done = np.nansum(serving.columns["completed"][before], axis=0)
    busy = np.nansum(serving.columns["busy"][before], axis=0)
    return np.maximum(FLOOR_S, FLOOR_SHARE * busy / np.maximum(done, 1.0))


def _scaled(table: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(table, 0.0) + offset)


def _rise(table: np.ndarray, before: np.ndarray) -> np.ndarray:
    return quantile(table[~before].T, 0.5) - quantile(table[before].T, 0.5)
