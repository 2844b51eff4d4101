"""Statistics of the difference between two campaigns. The units are cases: requests of one case are not independent.

Limits: docs/record-and-compare.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.score.comparison import sign_flip_p_values

PAIRED_SHARE = 0.5
_LEVELS = 400


@dataclass(frozen=True)
class Resampling:
    """Bootstrap samples, confidence of the intervals, seed of the draws."""

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 42


@dataclass(frozen=True)
class Difference:
    """The difference of two means over cases, the second minus the first.

    ``paired``: over the ``cases_a`` cases of both; ``p``: two-sided, of the paired test (None: not paired).
    ``low``, ``high``: None for a single case.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    paired: bool
    cases_a: int
    cases_b: int

    @property
    def p_below(self) -> float | None:
        """One-sided p value of the second being below the first."""
        return None if self.p is None else self.p / 2 if self.value < 0 else 1 - self.p / 2

    @property
    def p_above(self) -> float | None:
        return None if self.p is None else self.p / 2 if self.value > 0 else 1 - self.p / 2


def difference(a: Mapping[str, float], b: Mapping[str, float], how: Resampling, label: str) -> Difference | None:
    """Return the difference of case id -> value; None without cases. Paired if each shares half of its cases.

    Source: percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16.
    """
    if not a or not b:
        return None
    common = common_cases(a, b)
    if common:
        changes = np.array([[b[case] - a[case]] for case in common])
        low = high = None
        if len(common) > 1:
            low, high = _interval(_resampled(changes[:, 0], how, f"{label}|paired"), how.confidence)
        p = float(sign_flip_p_values(changes, seed=how.seed, label=label)[0])
        return Difference(float(changes.mean()), low, high, p, True, len(common), len(common))
    first, second = (np.array(list(side.values())) for side in (a, b))
    low = high = None
    if len(first) > 1 and len(second) > 1:
        means = _resampled(second, how, f"{label}|b") - _resampled(first, how, f"{label}|a")
        low, high = _interval(means, how.confidence)
    return Difference(float(second.mean() - first.mean()), low, high, None, False, len(first), len(second))


def common_cases(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """Return the cases of both, in the order of ``a``; empty if they are less than ``PAIRED_SHARE`` of either."""
    common = [case for case in a if case in b]
    return common if common and len(common) >= PAIRED_SHARE * max(len(a), len(b)) else []


def _weights(cases: int, how: Resampling, label: str) -> NDArray[np.int64]:
    """Return how often each sample draws each case, (samples, cases)."""
    seed = hashlib.sha256(f"{how.seed}|compare|{label}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=how.samples)


def _resampled(values: NDArray[np.float64], how: Resampling, label: str) -> NDArray[np.float64]:
    return _weights(len(values), how, label) @ values / len(values)


def _interval(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Dominance:
    """Cliff's delta: how much more often a request of the second campaign is slower than one of the first, than the
    other way round; -1 to 1."""

    value: float
    low: float | None
    high: float | None

    @property
    def size(self) -> str:
        """The effect size in words, by the usual bounds 0.147, 0.33, 0.474 (Romano et al. 2006)."""
        words = ("negligible", "small", "medium", "large")
        return words[int(np.searchsorted((0.147, 0.33, 0.474), abs(self.value), side="right"))]


def dominance(
    a: Mapping[str, NDArray[np.float64]], b: Mapping[str, NDArray[np.float64]], how: Resampling, label: str
) -> Dominance | None:
    """Return Cliff's delta of case id -> values of its requests, with an interval from resampling cases.

    Source: Cliff, "Dominance Statistics: Ordinal Analyses to Answer Ordinal Questions", Psychological Bulletin, 1993.
    """
    a, b = ({case: _thinned(values) for case, values in side.items() if len(values)} for side in (a, b))
    if not a or not b:
        return None
    common = common_cases(a, b)
    if common:
        a, b = ({case: side[case] for case in common} for side in (a, b))
    wins = _Wins(list(a.values()), list(b.values()))
    once_a, once_b = (np.ones((1, len(side)), dtype=np.int64) for side in (a, b))
    value = wins.of(once_a, once_b)[0]
    if len(a) < 2 or len(b) < 2:
        return Dominance(float(value), None, None)
    drawn_a = _weights(len(a), how, f"{label}|a")
    drawn_b = drawn_a if common else _weights(len(b), how, f"{label}|b")
    low, high = _interval(wins.of(drawn_a, drawn_b), how.confidence)
    return Dominance(float(value), low, high)


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values sorted, or ``_LEVELS`` evenly spaced quantiles if there are more."""
    if len(values) <= _LEVELS:
        return np.sort(values)
    return np.quantile(values, (np.arange(_LEVELS) + 0.5) / _LEVELS)


class _Wins:
    """The requests of both campaigns in one order, so that samples of cases are compared in linear time and memory."""

    def __init__(self, a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> None:
        self._sizes = tuple(np.array([len(values) for values in side]) for side in (a, b))
        values_a, values_b = np.concatenate(a), np.concatenate(b)
        order = np.argsort(values_a, kind="stable")
        self._case_a = np.repeat(np.arange(len(a)), self._sizes[0])[order]
        self._case_b = np.repeat(np.arange(len(b)), self._sizes[1])
        self._below = np.searchsorted(values_a[order], values_b, side="left")
        self._not_above = np.searchsorted(values_a[order], values_b, side="right")

    def of(self, drawn_a: NDArray[np.int64], drawn_b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return Cliff's delta per sample; ``drawn_a``, ``drawn_b``: how often it has each case, (samples, cases)."""
        return np.array([self._one(*drawn) for drawn in zip(drawn_a, drawn_b, strict=True)])

    def _one(self, drawn_a: NDArray[np.int64], drawn_b: NDArray[np.int64]) -> float:
        until = np.concatenate([[0], np.cumsum(drawn_a[self._case_a])])  # how many of a come before a place
        below, above = until[self._below], until[-1] - until[self._not_above]
        total = int((drawn_b[self._case_b] * (below - above)).sum())
        return total / (int(drawn_a @ self._sizes[0]) * int(drawn_b @ self._sizes[1]))
