"""Counts with intervals, and tests, over the outcomes of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.score.bootstrap import bootstrap_interval
from tasks.score.comparison import holm, mcnemar_p_values
from tasks.score.intervals import poisson_interval, wilson_interval
from tasks.study.data import Outcome

CONFIDENCE = 0.95
_SAMPLES, _SEED = 2000, 42


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n``, with Wilson's interval."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.hits, self.n, CONFIDENCE)

    def __str__(self) -> str:
        """``.90 [.60, .98] (9 of 10)``."""
        if not self.n:
            return "–"
        low, high = self.interval
        return f"{short(self.value)} [{short(low)}, {short(high)}] ({self.hits} of {self.n})"

    @property
    def brief(self) -> str:
        """``9/10``."""
        return f"{self.hits}/{self.n}" if self.n else "–"


@dataclass(frozen=True)
class Mean:
    """A mean over ``n`` cases, with its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "–"
        interval = "" if math.isnan(self.low) else f" [{short(self.low)}, {short(self.high)}]"
        return f"{short(self.value)}{interval} ({self.n})"


@dataclass(frozen=True)
class Rate:
    """``events`` in so many hours, with the exact Poisson interval."""

    events: int
    hours: float

    def __str__(self) -> str:
        if not self.hours:
            return "–"
        low, high = poisson_interval(self.events, self.hours, CONFIDENCE)
        return f"{self.events / self.hours:.1f} [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class Paired:
    """A method against another on the same cases: how often only one of them was right; ``p`` by McNemar's exact test,
    ``p_holm`` corrected for the number of others."""

    other: str
    n: int
    wins: int
    losses: int
    p: float
    p_holm: float


def short(value: float) -> str:
    """Format a share: ``.90``, ``1.00``."""
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0.") else text


def share(outcomes: Iterable[Outcome], of: Callable[[Outcome], bool] = lambda outcome: outcome.right) -> Share:
    found = [of(outcome) for outcome in outcomes]
    return Share(sum(found), len(found))


def mean(values: Sequence[float], label: str) -> Mean:
    if not values:
        return Mean(math.nan, math.nan, math.nan, 0)
    low, high = bootstrap_interval(
        np.array(values, dtype=float)[:, None], samples=_SAMPLES, confidence=CONFIDENCE, seed=_SEED, label=label
    )
    return Mean(float(np.mean(values)), float(low[0]), float(high[0]), len(values))


def set_f1(outcomes: Iterable[Outcome], label: str) -> Mean:
    """Return the mean strict F1 (service and kind) over the cases that have one."""
    return mean([outcome.sets.scores()["set_f1"] for outcome in outcomes if outcome.sets is not None], label)


def kind_accuracy(outcomes: Iterable[Outcome]) -> Share:
    """Return how often the kind is right, of the roots whose service is named."""
    sets = [outcome.sets for outcome in outcomes if outcome.sets is not None]
    hits = sum(match.hits for match in sets)
    return Share(hits, hits + sum(match.wrong_kinds for match in sets))


def false_roots(outcomes: Sequence[Outcome]) -> tuple[Share, int, Rate]:
    """Return, over cases without a root: the share with a false root, how many there are, and how many per hour."""
    said = [outcome for outcome in outcomes if outcome.findings is not None]
    total = sum(outcome.false_roots for outcome in said)
    hours = sum(outcome.case.watched_s for outcome in said) / 3600
    return share(said, lambda outcome: outcome.false_roots > 0), total, Rate(total, hours)


def paired(outcomes: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]) -> list[Paired]:
    """Compare the first places of ``outcomes`` with those of each of ``others``, on the cases that both have."""
    right = {(o.case.campaign, o.case.case_id): o.right for o in outcomes}
    found: list[tuple[str, int, int, int, float]] = []
    for name, theirs in others.items():
        pairs = [(right[key], o.right) for o in theirs if (key := (o.case.campaign, o.case.case_id)) in right]
        differences = np.array([[float(a) - float(b)] for a, b in pairs]).reshape(-1, 1)
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        found.append((name, len(pairs), wins, losses, float(mcnemar_p_values(differences)[0]) if pairs else 1.0))
    corrected = holm(np.array([row[4] for row in found])).tolist() if found else []
    return [Paired(*row, p) for row, p in zip(found, corrected, strict=True)]
