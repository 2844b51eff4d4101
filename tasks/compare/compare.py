"""Compares two campaigns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.compare.errors import CompareError
from tasks.compare.recovery import RecoveryChange, recovery_changes
from tasks.compare.side import Estimate, HealthyRequests, Side
from tasks.compare.statistics import Difference, Dominance, Resampling, difference, dominance
from tasks.injection import FAULT_FREE
from tasks.score.accuracy import COMPARED_SCORES

MEAN_OF_METHODS = "(mean of methods)"
ABSENT = "–"


@dataclass(frozen=True)
class ScoreChange:
    """Change of one score of one method: the estimate of each campaign, and the difference over cases."""

    method: str
    score: str
    a: Estimate | None
    b: Estimate | None
    difference: Difference | None


@dataclass(frozen=True)
class SetChange:
    """Change of what a method says beyond a rank, each side by score; ``difference`` is that of the F1 of its sets."""

    method: str
    a: Mapping[str, Estimate]
    b: Mapping[str, Estimate]
    difference: Difference | None


@dataclass(frozen=True)
class LatencyChange:
    """Change of one latency of healthy requests (s), geometric mean over cases; ``ratio`` is b / a with its interval.

    ``logarithms``: the difference of the logarithms.
    """

    figure: str
    group: str
    a: float
    b: float
    logarithms: Difference

    @property
    def ratio(self) -> tuple[float, float | None, float | None]:
        change = self.logarithms
        low, high = (None if bound is None else math.exp(bound) for bound in (change.low, change.high))
        return math.exp(change.value), low, high


@dataclass(frozen=True)
class ShareChange:
    """Share of healthy requests that failed, mean over cases."""

    group: str
    a: float
    b: float
    difference: Difference


@dataclass(frozen=True)
class DominanceChange:
    figure: str
    group: str
    delta: Dominance


@dataclass(frozen=True)
class EffectChange:
    """Change of one fault's probe: its means (before, during) over injections, and the difference of the effects."""

    fault: str
    probe: str
    unit: str
    a: tuple[float, float] | None
    b: tuple[float, float] | None
    effective_a: str
    effective_b: str
    difference: Difference | None


@dataclass(frozen=True)
class ValueChange:
    """A version or a parameter in both campaigns; an en dash where one has none."""

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """``a`` is the earlier campaign, ``b`` the later."""

    a: Side
    b: Side
    resampling: Resampling
    scores: tuple[ScoreChange, ...]
    sets: tuple[SetChange, ...]
    latency: tuple[LatencyChange, ...]
    dominance: tuple[DominanceChange, ...]
    failed_requests: tuple[ShareChange, ...]
    effects: tuple[EffectChange, ...]
    versions: tuple[ValueChange, ...]
    parameters: tuple[ValueChange, ...]
    failures: tuple[ValueChange, ...]
    recovery: tuple[RecoveryChange, ...] = ()

    def score(self, method: str, score: str) -> ScoreChange | None:
        return next((change for change in self.scores if (change.method, change.score) == (method, score)), None)


def compare(a: Side, b: Side, how: Resampling) -> Comparison:
    """Compare two campaigns, which need not share cases, methods or parameters.

    Raises:
        CompareError: one is simulated and the other recorded.
    """
    if a.simulated != b.simulated:
        which = a if a.simulated else b
        raise CompareError(f"{which.label}: it is simulated, the other campaign was recorded: they cannot be compared")
    return Comparison(
        a=a,
        b=b,
        resampling=how,
        scores=_score_changes(a, b, how),
        sets=tuple(
            SetChange(
                method,
                a.said.get(method, {}),
                b.said.get(method, {}),
                difference(a.sets.get(method, {}), b.sets.get(method, {}), how, f"{method}|set_f1"),
            )
            for method in dict.fromkeys((*b.said, *a.said))
            if method in a.sets or method in b.sets
        ),
        latency=tuple(change for group in GROUPS for change in _latency_changes(a, b, group, how)),
        dominance=tuple(change for group in GROUPS for change in _dominance_changes(a, b, group, how)),
        failed_requests=tuple(change for group in GROUPS if (change := _failed_share(a, b, group, how))),
        effects=_effect_changes(a, b, how),
        versions=value_changes(a.versions, b.versions),
        parameters=value_changes(a.parameters, b.parameters),
        failures=value_changes(*(_failure_texts(side) for side in (a, b))),
        recovery=recovery_changes(a.recovery, b.recovery, how),
    )


def mean_of_methods(side: Side, methods: tuple[str, ...], score: str) -> dict[str, float]:
    """Return by case id the mean over ``methods``."""
    cases: dict[str, list[float]] = {}
    for method in methods:
        for case, value in side.scores.get(method, {}).get(score, {}).items():
            cases.setdefault(case, []).append(value)
    return {case: float(np.mean(values)) for case, values in cases.items() if len(values) == len(methods)}


def _score_changes(a: Side, b: Side, how: Resampling) -> tuple[ScoreChange, ...]:
    methods = list(dict.fromkeys((*b.estimates, *a.estimates)))
    methods.sort(key=lambda method: -_leading(b, a, method))
    both = tuple(m for m in methods if m in a.scores and m in b.scores and m not in a.references | b.references)
    changes = [_mean_change(a, b, both, score, how) for score in COMPARED_SCORES] if len(both) > 1 else []
    for method in methods:
        for score in COMPARED_SCORES:
            values = [side.scores.get(method, {}).get(score, {}) for side in (a, b)]
            before, after = (side.estimates.get(method, {}).get(score) for side in (a, b))
            changes.append(
                ScoreChange(method, score, before, after, difference(values[0], values[1], how, f"{method}|{score}"))
            )
    return tuple(changes)


def _mean_change(a: Side, b: Side, methods: tuple[str, ...], score: str, how: Resampling) -> ScoreChange:
    values = [mean_of_methods(side, methods, score) for side in (a, b)]
    estimates = [Estimate(float(np.mean(list(v.values()))) if v else None, None, None, None) for v in values]
    change = difference(values[0], values[1], how, f"{MEAN_OF_METHODS}|{score}")
    return ScoreChange(MEAN_OF_METHODS, score, estimates[0], estimates[1], change)


def _leading(b: Side, a: Side, method: str) -> float:
    for side in (b, a):
        estimate = side.estimates.get(method, {}).get(COMPARED_SCORES[0])
        if estimate is not None and estimate.value is not None:
            return estimate.value
    return -1.0


GROUPS: dict[str, Callable[[HealthyRequests], bool]] = {
    "healthy": lambda requests: True,
    FAULT_FREE: lambda requests: requests.fault_free,
}
"""``healthy``: every request while no fault acted; ``fault-free``: only those of fault-free cases."""

_VALUES: dict[str, Callable[[HealthyRequests], NDArray[np.float64]]] = {
    "latency": lambda requests: requests.latency_s,
    "TTFT": lambda requests: requests.ttft_s,
}
_QUANTILES = {"latency p50": ("latency", 0.5), "latency p90": ("latency", 0.9), "TTFT p50": ("TTFT", 0.5)} | {
    "TTFT p90": ("TTFT", 0.9)
}


def _requests(side: Side, group: str) -> dict[str, HealthyRequests]:
    return {case: requests for case, requests in side.requests.items() if GROUPS[group](requests)}


def _latency_changes(a: Side, b: Side, group: str, how: Resampling) -> list[LatencyChange]:
    changes = []
    for figure, (kind, quantile) in _QUANTILES.items():
        logs = [
            {case: math.log(v) for case, v in _quantiles(_requests(side, group), kind, quantile).items() if v > 0}
            for side in (a, b)
        ]
        change = difference(logs[0], logs[1], how, f"{group}|{figure}")
        if change is not None:
            means = [math.exp(float(np.mean(list(side.values())))) for side in logs]
            changes.append(LatencyChange(figure, group, means[0], means[1], change))
    return changes


def _quantiles(requests: Mapping[str, HealthyRequests], kind: str, quantile: float) -> dict[str, float]:
    values = {case: _VALUES[kind](each) for case, each in requests.items()}
    return {case: float(np.quantile(each, quantile)) for case, each in values.items() if len(each)}


def _dominance_changes(a: Side, b: Side, group: str, how: Resampling) -> list[DominanceChange]:
    changes = []
    for figure, values in _VALUES.items():
        sides = [{case: values(each) for case, each in _requests(side, group).items()} for side in (a, b)]
        delta = dominance(sides[0], sides[1], how, f"{group}|{figure}|delta")
        if delta is not None:
            changes.append(DominanceChange(figure, group, delta))
    return changes


def _failed_share(a: Side, b: Side, group: str, how: Resampling) -> ShareChange | None:
    shares = [
        {case: one.failed / one.total for case, one in _requests(side, group).items() if one.total} for side in (a, b)
    ]
    change = difference(shares[0], shares[1], how, f"{group}|failed")
    if change is None:
        return None
    means = [float(np.mean(list(side.values()))) for side in shares]
    return ShareChange(group, means[0], means[1], change)


_Key = tuple[str, str, str]
"""Fault kind, probe and unit."""

_Measured = Mapping[str, list[tuple[float, float, bool]]]
"""Case id -> the probe's values before and during, and whether the injection was effective."""


def _effect_changes(a: Side, b: Side, how: Resampling) -> tuple[EffectChange, ...]:
    sides = _measured(a), _measured(b)
    keys = sorted({*sides[0], *sides[1]})
    return tuple(_effect_change(key, sides[0].get(key, {}), sides[1].get(key, {}), how) for key in keys)


def _effect_change(key: _Key, a: _Measured, b: _Measured, how: Resampling) -> EffectChange:
    sizes = [
        {case: float(np.mean([during - before for before, during, _ in each])) for case, each in side.items()}
        for side in (a, b)
    ]
    change = difference(sizes[0], sizes[1], how, "|".join((*key, "effect")))
    return EffectChange(*key, _levels(a), _levels(b), _effective(a), _effective(b), change)


def _measured(side: Side) -> dict[_Key, _Measured]:
    """Return the injections whose probe has a value before and during."""
    found: dict[_Key, dict[str, list[tuple[float, float, bool]]]] = {}
    for case, injections in side.injections.items():
        for injection in injections:
            probe = injection.probe
            if probe and probe.before is not None and probe.during is not None:
                of_key = found.setdefault((injection.kind, probe.name, probe.unit), {})
                effective = injection.counts
                of_key.setdefault(case, []).append((probe.before, probe.during, effective))
    return dict(found)


def _levels(measured: _Measured) -> tuple[float, float] | None:
    each = [figures for found in measured.values() for figures in found]
    if not each:
        return None
    return float(np.mean([before for before, _, _ in each])), float(np.mean([during for _, during, _ in each]))


def _effective(measured: _Measured) -> str:
    each = [effective for found in measured.values() for _, _, effective in found]
    return f"{sum(each)} of {len(each)}" if each else ABSENT


def _failure_texts(side: Side) -> dict[str, str]:
    return {
        method: ", ".join(f"{count} × {status}" for status, count in sorted(found.items()))
        for method, found in side.failures.items()
    }


def value_changes(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[ValueChange, ...]:
    """Return the values that differ, by name."""
    return tuple(
        ValueChange(name, a.get(name, ABSENT), b.get(name, ABSENT))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    )
