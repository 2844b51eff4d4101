"""Peerwise: each service against its own past, its load and its siblings, by evidence from inside it.

A step by step account, the constants and where it fails are in docs/methods.md. In short, for each case:

1. Columns: raw metrics and derived ones (:mod:`tasks.rca.features.serving`).
2. The change of each signal of each service, less what load explains and what siblings share, in units of noise
   (:mod:`tasks.rca.features.siblings`, :mod:`tasks.rca.features.evidence`); slow calls are blamed on one end
   (:mod:`tasks.rca.features.links`).
3. What an upstream stop explains is left out.
4. Roots are the services whose strongest internal evidence is significant after Holm's correction; none may be.
5. The kind of each by rules (:mod:`tasks.rca.features.kinds`); the onset from the signals that speak for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import stdtr

from tasks.rca.features.evidence import BY_NAME, INTERNAL, LINK, SIGNALS, Signal
from tasks.rca.features.kinds import SHOWS, Kind, kinds_of
from tasks.rca.features.links import blame_links
from tasks.rca.features.serving import DERIVED, SMOOTH_S, Recorded, Serving, recorded_columns, serving_columns
from tasks.rca.features.siblings import Change, Judge, Reference, quantile
from tasks.rca.features.workload import Demand, changed_demand
from tasks.rca.method import (
    UNKNOWN_KIND,
    WORKLOAD_KIND,
    Evidence,
    Finding,
    MethodError,
    Paper,
    Ranking,
    method,
)
from tasks.rca.view import CaseView

ALPHA = 0.05
TAIL = 100
"""Degrees of freedom of the Student t distribution that strengths are judged by: noise is not quite normal."""
LEAST_ROWS = 3
SUSTAIN = 3
"""An onset is the first of so many rows whose mean is past half of the change."""
RELOCATE_S = 12.0
"""The change is looked for up to so many seconds from the given inject time, or as far as a rate looks back if that is
further: so late may a detector be that sees rates."""
HINTS = 2.0
"""From so many noises on a service helps to find the time of the change."""
RELOCATE_ROWS = 3
"""A change closer than this to the given time leaves it as it is."""
CLEARER = 1.1
"""Another time of the change is believed if the strongest evidence is so much stronger there."""
SLIGHT = 6.0
"""Below so many noises more CPU or memory that harms nothing is no cause while something twice as strong is there."""
LATER_S = 4.0
"""One onset is later than another from this difference on."""
UNANSWERED = 0.3
"""A lone service is silent by its own fault only while at least this share of the usual requests still comes."""
FLAT = 0.08
"""The spread of a full link's traffic, relative: a link with room left varies by a fifth."""
STILLER = 0.5
"""A full link varies at most by this share of its usual spread: the traffic of many clients is even by itself."""
LARGE = 1000.0
RATIO = 100.0
"""A ratio beyond this says no more than the two numbers."""
ALIKE = 0.35
"""Calls are late alike if the middle half of their gaps spreads by at most this share of the typical rise."""
INSIDE = tuple(signal for signal in SIGNALS if signal.group in INTERNAL)
FOLLOWS_LOAD = (
    Signal(
        "cpu", "cpu", ("cpu",), "log", BY_NAME["cpu"].floor, "uses CPU", offset=0.02, metric="cpu_usage", unit="cores"
    ),
    BY_NAME["latency"],
    BY_NAME["waiting"],
)
"""What more, or less, work moves."""
DEMANDS = {
    "requests": ("requests/s", "request_rate", "requests arrive"),
    "prompts": ("tokens", "prompt_tokens_rate", "the prompt of a request"),
}
"""Unit, metric and words of each measure of the load."""
PILES_UP = ("memory-stress", "process-kill", "cpu-stress")
"""Kinds that waiting for a broken callee can cause in a caller."""


@dataclass(frozen=True)
class _Case:
    """What is known of a case once the change is located. ``z``: signal -> (services,) strength, NaN unknown.
    ``gaps``: of :class:`tasks.rca.features.links.Links`. ``looks``: how many times of the change were tried."""

    view: CaseView
    recorded: Recorded
    before: np.ndarray
    serving: Serving
    judge: Judge
    changes: Mapping[str, Change]
    tables: Mapping[str, np.ndarray]
    z: Mapping[str, np.ndarray]
    gaps: Mapping[int, Sequence[np.ndarray]]
    looks: int = 1


@dataclass(frozen=True)
class _Root:
    service: int
    p: float
    kinds: tuple[Kind, ...]
    onset_s: float


@method(
    name="peerwise",
    family="multi-source",
    needs={"metrics"},
    paper=Paper("Root causes in LLM serving stacks by siblings and physics", "RCArena, docs/methods.md", 2026),
    beyond=True,
)
def peerwise(
    view: CaseView,
    rng: np.random.Generator,
    *,
    reference: Reference = "shared",
    history: bool = True,
    derived: bool = True,
    floors: bool = True,
) -> Ranking:
    """Services by evidence from inside them that neither their past, nor their load, nor their siblings explain.

    Ranks services, and metrics of the view; says how many roots there are, of which kind, and why. Inputs: metrics,
    inject time, and of spans, requests and topology what there is. Parameters, for ablations: ``reference`` (what
    siblings share: ``shared``, their ``median``, or ``none``), ``history`` (compare with the service's past; else with
    its siblings alone), ``derived`` (columns computed from several metrics or from spans), ``floors`` (the smallest
    change that matters). Complexity: O(services x metrics x rows + spans log spans). Randomness: none. Source: this
    project; ideas of LatencyPrism (arXiv 2601.09258, 2026: a latency is judged at equal load), Minder (NSDI 2025:
    distance to peers), PRISM (arXiv 2601.21359, 2026: only internal evidence names a root), Holm (1979).
    Deviations: none.
    """
    before = _split_in_reach(view)
    groups = np.unique([view.roles[service] for service in view.services], return_inverse=True)[1]
    judge = Judge(groups, reference, history, floors, view.step_s or 1.0)
    case = _earlier(_clearer(_examine(view, recorded_columns(view), before, judge, derived), derived), before, derived)
    roots = _roots(case)
    return Ranking(
        services=_service_scores(case, roots),
        metrics=_metric_scores(case),
        findings=_findings(case, roots) or _workload(case),
        coverage=case.serving.coverage,
    )


def _clearer(case: _Case, derived: bool) -> _Case:
    """Return the case at the time at which its strongest series change, if the evidence is clearer there."""
    moved = _relocated(case)
    if moved is None:
        return case
    others = 1 + 2 * _reach(case.view) // _window(case.before)
    other = replace(_examine(case.view, case.recorded, moved, case.judge, derived), looks=case.looks * others)
    return other if _strength(other) >= CLEARER * _strength(case) else case


def _earlier(case: _Case, given: np.ndarray, derived: bool) -> _Case:
    """Return the case at the time that is as much too early as it may be, if there is evidence, clearer than before,
    that changed before the given time: what was called normal holds a part of the fault, or the first of two."""
    rows = int(np.count_nonzero(given)) - _reach(case.view)
    if rows < 2 * LEAST_ROWS or not case.judge.history:
        return case
    early = np.arange(len(given)) < rows
    inside = _examine(case.view, case.recorded, early, case.judge, derived, INSIDE)
    best = _best(inside)
    clearer = (best >= SHOWS) & (best >= CLEARER * _best(case))
    began = [_began(inside, service, rows) for service in np.flatnonzero(clearer).tolist()]
    if min(began, default=len(given)) > np.count_nonzero(given) - RELOCATE_ROWS:
        return case
    other = _examine(case.view, case.recorded, early, case.judge, derived)
    return _clearer(replace(other, looks=1 + case.looks), derived)


def _began(case: _Case, service: int, first: int) -> int:
    """Return the row, from ``first`` on, in which the strongest series of a service changed."""
    names = [name for name in case.z if BY_NAME[name].group in INTERNAL]
    name = max(names, key=lambda each: float(np.nan_to_num(case.z[each][service])))
    values = case.tables[name][:, service]
    if BY_NAME[name].once:
        return first + int(np.argmax(np.nan_to_num(values[first:], nan=-np.inf)))
    return _split(values, first, len(values) - LEAST_ROWS)


def _strength(case: _Case) -> float:
    return float(_best(case).max(initial=0.0))


def _reach(view: CaseView) -> int:
    """Return how many rows the change may be away from the given time."""
    return int(max(RELOCATE_S, view.context.rate_window_s or 0.0) / (view.step_s or 1.0))


def _split_in_reach(view: CaseView) -> np.ndarray:
    """Return (rows,) bool, the rows before the inject time. One so close to an edge of the recording that nothing can
    be compared is taken as far inside as that takes, if it may be off by so much."""
    index = pd.DatetimeIndex(view.metrics.index)
    given = int(np.count_nonzero(index < view.inject_time))
    split = min(max(given, LEAST_ROWS), len(index) - LEAST_ROWS)
    off = abs((index[split] - view.inject_time).total_seconds()) if split >= LEAST_ROWS else np.inf
    if split != given and off > _reach(view) * (view.step_s or 1.0):
        raise MethodError(f"fewer than {LEAST_ROWS} metric rows before, or after, the inject time")
    return np.arange(len(index)) < split


def _examine(
    view: CaseView,
    recorded: Recorded,
    before: np.ndarray,
    judge: Judge,
    derived: bool,
    signals: Sequence[Signal] = SIGNALS,
) -> _Case:
    """Measure the change of each of ``signals``, and of the links, of every service."""
    serving = serving_columns(view, before, recorded)
    if not derived:
        serving = replace(serving, columns={n: t for n, t in serving.columns.items() if n not in DERIVED})
    changes: dict[str, Change] = {}
    tables: dict[str, np.ndarray] = {}
    for signal in signals:
        table = next((serving.columns[name] for name in signal.columns if name in serving.columns), None)
        if table is not None:
            tables[signal.name] = signal.scaled(table)
            changes[signal.name] = judge.change(tables[signal.name], before, signal.floor, once=signal.once)
    slowed = None
    if "step" in serving.columns:
        slowed = judge.change(BY_NAME["step"].scaled(serving.columns["step"]), before, BY_NAME["step"].floor).shared
    own = [changes[name].z for name in ("cpu", "step", "stopped") if name in changes]
    burdened = np.nan_to_num(np.fmax.reduce(own)) >= SHOWS if own else np.zeros(len(view.services), dtype=bool)
    links = blame_links(serving, before, judge, view.services.index(view.front_end), slowed, burdened)
    if links is not None:
        changes[LINK.name], tables[LINK.name] = links.change, links.values
    strengths = {name: change.z for name, change in changes.items()}
    case = _Case(view, recorded, before, serving, judge, changes, tables, strengths, links.gaps if links else {})
    return replace(case, z=_explained(case))


def _explained(case: _Case) -> dict[str, np.ndarray]:
    """Return the strengths without what something else explains: settings that slowed nothing, and the silence of
    services that nobody could call."""
    z = {name: each.copy() for name, each in case.z.items()}
    step = z.get("step")
    if step is not None:
        for name in z:
            if BY_NAME[name].needs_effect:
                z[name] = np.fmin(z[name], 2 * np.fmax(step, 0.0))
    halted = [name for name in ("stopped", "mute", "unheard", "vanished") if name in z]
    if halted:
        halts = np.fmax.reduce([z[name] for name in halted]) >= SHOWS
        for service in _below(case.serving.callees, np.flatnonzero(halts)):
            for name in ("silent", "step", "link"):
                if name in z and not halts[service]:
                    z[name][service] = np.nan
    if "link" in z:
        own = [z[name] for name in ("cpu", "step", "link") if name in z]
        late = np.nan_to_num(np.fmax.reduce(own)) >= SHOWS
        for caller, called in case.serving.callees.items():
            if late[caller] and len(called) > 1:
                z["link"][list(called)] = np.nan
    if "silent" in z:
        asked = _still_asked(case)
        for service in range(len(case.view.services)):
            if case.judge.siblings(service) == 1 and (case.serving.callees.get(service) or not asked):
                z["silent"][service] = np.nan
        z["silent"] = np.minimum(z["silent"], _beyond_chance(case))
    return z


def _below(callees: Mapping[int, tuple[int, ...]], start: Sequence[int] | np.ndarray) -> list[int]:
    """Return the services that those of ``start`` call, directly or not."""
    reached: set[int] = set()
    edge = [int(each) for each in start]
    while edge:
        for callee in callees.get(edge.pop(), ()):
            if callee not in reached:
                reached.add(callee)
                edge.append(callee)
    return sorted(reached)


def _still_asked(case: _Case) -> bool:
    """Return whether requests kept coming in: by the load's own record, else as far as anybody knows."""
    requests = case.view.requests
    if not len(requests):
        return True
    first = case.view.metrics.index[~case.before][0]
    late = (requests["scheduled"] >= first).to_numpy()
    rows = np.count_nonzero(case.before), np.count_nonzero(~case.before)
    usual, now = np.count_nonzero(~late) / rows[0], np.count_nonzero(late) / rows[1]
    return bool(now >= UNANSWERED * usual)


def _beyond_chance(case: _Case) -> np.ndarray:
    """Return (services,) how far the silence of each is from that of one to whom by chance no request was sent, in
    noises; infinite if requests are known to be in it, or nobody counts them.

    Its usual requests, as far as its siblings still have work, are expected of a Poisson process; the square root of
    such a count has a standard deviation of a half whatever the mean (Anscombe, Biometrika 35, 1948).
    """
    columns = case.serving.columns
    counted = columns.get("started")
    if counted is None and "request_rate" in columns:
        counted = columns["request_rate"] * (case.view.step_s or 1.0)
    silent = (np.nan_to_num(columns["silent"]) > 0) & ~case.before[:, None]
    bound = np.full(silent.shape[1], np.inf)
    if counted is None:
        return bound
    known = np.isfinite(counted[case.before])
    usual = np.where(known, counted[case.before], 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    certain = np.count_nonzero(silent & (columns["asked"] > 0), axis=0) >= SUSTAIN
    for service in np.flatnonzero(silent.any(axis=0) & ~certain & known.any(axis=0)).tolist():
        beside = np.flatnonzero(case.judge.group == case.judge.group[service])
        beside = beside[beside != service]
        if len(beside):
            busy = quantile(columns["done"][silent[:, service]][:, beside], 0.5)
            bound[service] = 2 * np.sqrt(usual[service] * np.nansum(busy))
    return bound


def _window(before: np.ndarray) -> int:
    """Return the rows of the windows that noise is measured between: a change of fewer rows has more of it."""
    return max(LEAST_ROWS, int(np.count_nonzero(before)) // 3)


def _relocated(case: _Case) -> np.ndarray | None:
    """Return (rows,) bool, the rows before the change if it is not where the inject time says; None if it is."""
    reach = _reach(case.view)
    if reach < RELOCATE_ROWS or not case.judge.history:
        return None
    given = int(np.count_nonzero(case.before))
    internal = [name for name in case.z if BY_NAME[name].group in INTERNAL and not BY_NAME[name].once]
    if not internal:
        return None
    table = np.stack([np.nan_to_num(case.z[name]) for name in internal])
    best = table.max(axis=0)
    last = min(len(case.before) - _window(case.before), given + reach)
    splits = []
    for service in np.flatnonzero(best >= max(HINTS, 0.5 * best.max())).tolist():
        values = case.tables[internal[int(np.argmax(table[:, service]))]][:, service]
        splits.append(_split(values, max(LEAST_ROWS, given - reach), max(given, last)))
    if not splits or abs(min(splits) - given) < RELOCATE_ROWS:
        return None
    return np.arange(len(case.before)) < min(splits)


def _split(values: np.ndarray, first: int, last: int) -> int:
    """Return the row from which on the level differs most, of ``first`` to ``last``: the split of least squares."""
    known = ~np.isnan(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0.0], np.cumsum(known)])
    at = np.arange(first, max(last, first) + 1)
    at = at[at < len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = total[at] ** 2 / count[at] + (total[-1] - total[at]) ** 2 / (count[-1] - count[at])
    return int(at[np.nanargmax(gain)]) if np.isfinite(gain).any() else first


def _group_strengths(case: _Case) -> dict[str, np.ndarray]:
    """Return the strongest signal of each internal group, (services,), NaN where nothing is known."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, strength in case.z.items():
        if BY_NAME[name].group in INTERNAL:
            groups.setdefault(BY_NAME[name].group, []).append(strength)
    return {name: np.fmax.reduce(parts) for name, parts in groups.items()}


def _best(case: _Case) -> np.ndarray:
    """Return the strongest internal evidence of each service, (services,), 0 where nothing is known."""
    groups = _group_strengths(case)
    return np.nan_to_num(np.fmax.reduce(list(groups.values()))) if groups else np.zeros(len(case.view.services))


def _roots(case: _Case) -> list[_Root]:
    """Return the services whose evidence is significant, earliest first."""
    groups = _group_strengths(case)
    if not groups:
        return []
    table = np.stack(list(groups.values()))
    best = _best(case)
    tests = np.count_nonzero(~np.isnan(table), axis=0)
    p = np.minimum(1.0, stdtr(TAIL, -best) * np.maximum(tests, 1) * case.looks)
    corrected = holm(p)
    found = []
    named = (corrected <= ALPHA) & (best >= SHOWS) & ~_slight(groups, best)
    named[case.view.services.index(case.view.front_end)] &= not _restarted_in_order(case, groups)
    for service in np.flatnonzero(named).tolist():
        kinds = kinds_of(_signals_of(case, service))
        found.append(_Root(int(service), float(corrected[service]), kinds, _onset(case, service, kinds)))
    strength = {root.service: best[root.service] for root in found}
    return sorted(found, key=lambda root: (root.onset_s, -strength[root.service]))


def _restarted_in_order(case: _Case, groups: Mapping[str, np.ndarray]) -> bool:
    """Return whether the front end ended and came back without breaking a request that it had accepted: somebody
    restarted it. A crash looks the same while nothing is under way."""
    front = case.view.services.index(case.view.front_end)
    others = [groups[name][front] for name in groups if name not in ("restart", "stall")]
    if np.nan_to_num(groups.get("restart", np.zeros(front + 1))[front]) < SHOWS or "cut" not in case.z:
        return False
    if np.nan_to_num(others).max(initial=0.0) >= SHOWS or _lasting_stall(case, front):
        return False
    return bool(np.nan_to_num(case.z["cut"][front]) < SHOWS)


def _lasting_stall(case: _Case, service: int) -> bool:
    return any(np.nan_to_num(case.z[name][service]) >= SHOWS for name in ("stopped", "mute") if name in case.z)


def _slight(groups: Mapping[str, np.ndarray], best: np.ndarray) -> np.ndarray:
    """Return (services,) bool: a little more CPU or memory that slowed nothing, beside something far stronger."""
    harm = [groups[name] for name in groups if name not in ("cpu", "memory")]
    harmless = np.nan_to_num(np.fmax.reduce(harm)) < HINTS if harm else np.zeros(len(best), dtype=bool)
    return harmless & (best < SLIGHT) & (best < 0.5 * best.max(initial=0.0))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values corrected for their number.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    order = np.argsort(p, kind="stable")
    stepwise = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, stepwise)
    return corrected


def _signals_of(case: _Case, service: int) -> dict[str, float]:
    """Return the strengths of the signals of a service, the shape of its late calls among them."""
    signals = {name: float(np.nan_to_num(strength[service])) for name, strength in case.z.items()}
    if signals.get("link", 0.0) >= SHOWS:
        active = _active(case.tables["link"][:, service], case.before)
        signals["every_call"] = SHOWS if any(_alike(gap, active, case.before) for gap in case.gaps[service]) else 0.0
        signals["capped"] = SHOWS if _capped(case, service, active) else 0.0
    elif signals.get("resent", 0.0) >= SHOWS:
        active = _active(case.tables["resent"][:, service], case.before)
        signals["capped"] = SHOWS if _capped(case, service, active) else 0.0
    return signals


def _capped(case: _Case, service: int, active: np.ndarray) -> bool:
    """Return whether a service sends all the time as much as goes through, and less evenly before. The rows in which a
    rate still looks back on what was before are left out."""
    sent = case.serving.get("transmit")
    rows = np.flatnonzero(active)[round(SMOOTH_S / (case.view.step_s or 1.0)) :]
    if sent is None or np.isfinite(sent[rows, service]).sum() < LEAST_ROWS:
        return False
    spreads = []
    for of in (case.before, rows):
        low, middle, high = (float(quantile(sent[of, service], level)) for level in (0.2, 0.5, 0.7))
        spreads.append((high - low) / middle if middle > 0 else np.nan)
    return bool(spreads[1] <= min(FLAT, STILLER * spreads[0]))


def _alike(gap: np.ndarray, active: np.ndarray, before: np.ndarray) -> bool:
    """Return whether calls are late by about the same: something holds all of them up, not one packet or another."""
    quick, typical, slow = (quantile(gap[active], level) for level in (0.3, 0.5, 0.8))
    return bool(slow - quick <= ALIKE * (typical - quantile(gap[before], 0.5)))


def _active(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return (rows,) bool, the rows from the onset of a change to its end."""
    normal, now = quantile(values[before], 0.5), quantile(values[~before], 0.75)
    high = ~before & (_running(values) >= (normal + now) / 2)
    rows = np.flatnonzero(high)
    active = np.zeros(len(values), dtype=bool)
    if len(rows):
        active[rows[0] : rows[-1] + 1] = True
    return active


def _running(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row and the next ones, ``SUSTAIN`` in all, NaN left out."""
    padded = np.concatenate([values, np.full(SUSTAIN - 1, np.nan)])
    stacked = np.stack([padded[i : i + len(values)] for i in range(SUSTAIN)])
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)


def _onset(case: _Case, service: int, kinds: Sequence[Kind]) -> float:
    """Return when the signals that speak for a root passed half of their change, in seconds after the inject time."""
    names = [name for kind in kinds for name in kind.signals if name in case.tables]
    names = names or [max(case.z, key=lambda name: np.nan_to_num(case.z[name][service]))]
    index = pd.DatetimeIndex(case.view.metrics.index)
    onsets = []
    for name in names:
        active = np.flatnonzero(_active(case.tables[name][:, service], case.before))
        if len(active):
            onsets.append((index[active[0]] - case.view.inject_time).total_seconds())
    return min(onsets, default=0.0)


def _service_scores(case: _Case, roots: Sequence[_Root]) -> tuple[tuple[str, float], ...]:
    """Roots first, the earliest at the top; the others by the sum of their evidence, ties by what callers see."""
    strength = [np.log1p(np.maximum(0.0, np.nan_to_num(each) - 1.0)) for each in _group_strengths(case).values()]
    score = np.sum(strength, axis=0) if strength else np.zeros(len(case.view.services))
    external = [np.nan_to_num(z) for name, z in case.z.items() if BY_NAME[name].group == "external"]
    if external:
        score = score + 1e-3 * np.log1p(np.maximum(0.0, np.max(external, axis=0)))
    ahead = float(score.max(initial=0.0)) + 1.0
    for place, root in enumerate(reversed(roots)):
        score[root.service] = ahead + place + score[root.service] / (1.0 + ahead)
    return tuple(zip(case.view.services, score.tolist(), strict=True))


def _metric_scores(case: _Case) -> tuple[tuple[str, str, float], ...]:
    columns = case.view.metrics.columns
    metrics, owner = columns.get_level_values(1), pd.Index(case.view.services).get_indexer(columns.get_level_values(0))
    best: dict[str, np.ndarray] = {}
    for name, strength in case.z.items():
        metric = BY_NAME[name].metric
        if metric is not None:
            best[metric] = np.fmax(best.get(metric, strength), strength)
    scores: list[tuple[str, str, float]] = []
    for metric, strength in best.items():
        has = np.zeros(len(strength), dtype=bool)
        has[owner[np.asarray(metrics == metric) & (owner >= 0)]] = True
        known = np.flatnonzero(has & np.isfinite(strength)).tolist()
        scores += [(case.view.services[i], metric, float(strength[i])) for i in known]
    return tuple(scores)


def _findings(case: _Case, roots: Sequence[_Root]) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for root in roots:
        victim = _is_victim(case, root, roots)
        kinds = root.kinds or (Kind(UNKNOWN_KIND, ()),)
        findings += [
            Finding(
                service=case.view.services[root.service],
                kind=kind.name,
                significance=root.p,
                role="victim" if victim else "root",
                onset_s=root.onset_s,
                evidence=_evidence(case, root.service, kind),
            )
            for kind in kinds
        ]
    return tuple(findings)


def _workload(case: _Case) -> tuple[Finding, ...]:
    """Return the finding that the load changed, for a case in which no service is at fault; what moved with it in the
    same direction is evidence."""
    demands = [demand for demand in changed_demand(case.view, case.serving.columns, case.before) if demand.p <= ALPHA]
    if not demands:
        return ()
    direction = 1 if demands[0].during > demands[0].before else -1
    evidence = [_demanded(demand) for demand in demands]
    evidence += [_observation(case, service, signal) for signal, service in _followed(case, direction)]
    return (Finding(None, WORKLOAD_KIND, demands[0].p, evidence=tuple(evidence)),)


def _followed(case: _Case, direction: int) -> list[tuple[Signal, int]]:
    """Return the signals that moved with the load, each with the service where it moved most."""
    loose = replace(case.judge, reference="none")
    found = []
    for signal in FOLLOWS_LOAD:
        table = next((case.serving.columns[name] for name in signal.columns if name in case.serving.columns), None)
        if table is not None:
            change = loose.change(direction * signal.scaled(table), case.before, signal.floor)
            service = int(np.argmax(np.nan_to_num(change.z)))
            if np.nan_to_num(change.z[service]) >= HINTS:
                found.append((signal, service))
    return found


def _demanded(demand: Demand) -> Evidence:
    unit, metric, words = DEMANDS[demand.name]
    times = _times(demand.during, demand.before)
    sentence = f"{words}: {_number(demand.during)} {unit}, {times}{_number(demand.before)} before"
    return Evidence(metric, sentence, unit, demand.before, demand.during)


def _is_victim(case: _Case, root: _Root, roots: Sequence[_Root]) -> bool:
    """Return whether waiting for an earlier root can have broken this service."""
    return any(kind.name in PILES_UP for kind in root.kinds) and any(
        other.onset_s <= root.onset_s - LATER_S and other.service in _below(case.serving.callees, [root.service])
        for other in roots
    )


def _evidence(case: _Case, service: int, kind: Kind) -> tuple[Evidence, ...]:
    names = [name for name in kind.signals if name in case.z]
    others = [name for name in case.z if name not in names and np.nan_to_num(case.z[name][service]) >= SHOWS]
    names += sorted(others, key=lambda name: -case.z[name][service])
    return tuple(_observation(case, service, BY_NAME[name]) for name in names)


def _observation(case: _Case, service: int, signal: Signal) -> Evidence:
    column = case.serving.get(signal.shows) if signal.shows else None
    if column is None and signal is LINK:
        column = case.tables[LINK.name]
    if column is None:
        column = next((case.serving.columns[n] for n in signal.columns if n in case.serving.columns), None)
    name = case.view.services[service]
    if column is None:
        return Evidence(signal.metric or signal.name, f"{name} {signal.words}")
    before, during = (float(quantile(column[rows, service], 0.5)) for rows in (case.before, ~case.before))
    beside = [i for i in np.flatnonzero(case.judge.group == case.judge.group[service]) if i != service]
    siblings = float(quantile(quantile(column[~case.before][:, beside].T, 0.5), 0.5)) if beside else np.nan
    said = [_known(value * signal.factor) for value in (before, during, siblings)]
    return Evidence(
        signal=signal.metric or signal.name,
        sentence=_sentence(name, signal, *said),
        unit=signal.unit,
        before=said[0],
        during=said[1],
        siblings=said[2],
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sentence(service: str, signal: Signal, before: float | None, during: float | None, siblings: float | None) -> str:
    text = f"{service}: {signal.words}"
    if during is None:
        return text
    unit = f" {signal.unit}" if signal.unit else ""
    against = [
        f", {_times(during, other)}{_number(other)} {what}"
        for other, what in ((before, "before"), (siblings, "at its siblings"))
        if other is not None
    ]
    return f"{text}: {_number(during)}{unit}" + "".join(against)


def _times(value: float, other: float) -> str:
    """Return how often ``other`` goes into ``value``, in words; nothing where the ratio says no more than both."""
    known = value > 0 and other > 0 and 1 / RATIO < value / other < RATIO
    return f"{value / other:.2g} times the " if known else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= LARGE else f"{value:.3g}"
