"""The regression gate: tests whether scores or the stack's latency got worse by more than a margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tasks.compare.compare import MEAN_OF_METHODS, Comparison, ScoreChange
from tasks.compare.statistics import Difference
from tasks.html.formatting import p_value, quantity
from tasks.params import GateParams
from tasks.score.comparison import holm

GATED_SCORE = "avg5"
GATED_GROUP = "healthy"
GATED_FIGURES = ("latency p50", "latency p90", "TTFT p50")


@dataclass(frozen=True)
class Check:
    """Check of one value. ``worse``: by how much a score fell, or latency or failures rose, on the scale of ``margin``;
    ``p``: one-sided, corrected for the checks made together (None: not paired). ``beyond``: the whole interval exceeds
    the margin. ``blind``: too few cases to show a regression."""

    what: str
    text: str
    worse: float
    margin: float
    p: float | None
    beyond: bool
    cases: int
    regressed: bool
    blind: bool


@dataclass(frozen=True)
class Verdict:
    """Outcome of the gate. ``previous``: label of the campaign compared with, None without one."""

    previous: str | None
    checks: tuple[Check, ...]

    @property
    def regressions(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.regressed)

    @property
    def blind(self) -> tuple[Check, ...]:
        """Checks with too few cases to show any regression."""
        return tuple(check for check in self.checks if check.blind)


def judge(comparison: Comparison, gate: GateParams) -> Verdict:
    """Check every figure of the gate.

    Checks made together share one false alarm rate, ``1 - confidence``: the mean of all methods alone, the single
    methods together, the stack's own figures together.

    Reference methods are judged only if ``gate`` names them.
    """
    changes = [change for change in comparison.scores if change.score == GATED_SCORE]
    mean = [change for change in changes if change.method == MEAN_OF_METHODS]
    references = comparison.a.references | comparison.b.references
    single = [change for change in changes if change.method not in {MEAN_OF_METHODS, *references}]
    if gate.methods:
        mean, single = [], [change for change in changes if change.method in gate.methods]
    alpha = 1 - comparison.resampling.confidence
    families = (
        [draft for change in mean if (draft := _score_draft(change, gate))],
        [draft for change in single if (draft := _score_draft(change, gate))],
        _stack_drafts(comparison, gate),
    )
    checks = [check for family in families for check in _judged(family, alpha)]
    return Verdict(comparison.a.label, tuple(checks))


@dataclass(frozen=True)
class _Draft:
    """A value to check. ``sign``: 1 if more is worse; ``margin`` is on the scale of ``difference``."""

    what: str
    text: str
    difference: Difference
    sign: int
    margin: float


def _score_draft(change: ScoreChange, gate: GateParams) -> _Draft | None:
    if change.difference is None or change.a is None or change.b is None:
        return None
    values = " → ".join("–" if side.value is None else f"{side.value:.2f}" for side in (change.a, change.b))
    return _Draft(
        what=f"score: {change.method} Avg@5",
        text=f"{values} ({_signed(change.difference)})",
        difference=change.difference,
        sign=-1,
        margin=gate.score_margin,
    )


def _stack_drafts(comparison: Comparison, gate: GateParams) -> list[_Draft]:
    drafts = [
        _Draft(
            what=f"stack: {change.figure}",
            text=f"{quantity(change.a, 's')} → {quantity(change.b, 's')} ({_percent(change.logarithms)})",
            difference=change.logarithms,
            sign=1,
            margin=math.log1p(gate.latency_margin),
        )
        for change in comparison.latency
        if change.group == GATED_GROUP and change.figure in GATED_FIGURES
    ]
    for share in comparison.failed_requests:
        if share.group == GATED_GROUP:
            text = f"{share.a:.1%} → {share.b:.1%} ({_signed(share.difference)})"
            drafts.append(_Draft("stack: failed requests", text, share.difference, 1, gate.failure_margin))
    return drafts


def _judged(drafts: list[_Draft], alpha: float) -> list[Check]:
    tests = [draft for draft in drafts if draft.difference.paired]
    raw = [draft.difference.p_above if draft.sign > 0 else draft.difference.p_below for draft in tests]
    corrected = holm(np.array(raw, dtype=float)) if tests else ()
    p_values = {id(draft): float(p) for draft, p in zip(tests, corrected, strict=True)}
    return [_check(draft, p_values.get(id(draft)), alpha, len(tests)) for draft in drafts]


def _check(draft: _Draft, p: float | None, alpha: float, together: int) -> Check:
    change = draft.difference
    worse = draft.sign * change.value
    nearest = change.low if draft.sign > 0 else change.high
    beyond = nearest is not None and draft.sign * nearest > draft.margin
    sure = p <= alpha if p is not None else beyond
    least_p = 2.0**-change.cases_a * together
    return Check(
        what=draft.what,
        text=draft.text,
        worse=worse,
        margin=draft.margin,
        p=p,
        beyond=beyond,
        cases=min(change.cases_a, change.cases_b),
        regressed=bool(worse > draft.margin and sure),
        blind=least_p > alpha if change.paired else nearest is None,
    )


def line(check: Check) -> str:
    """Return a check as text: ``score: baro Avg@5 0.90 → 0.55 (…), p = 0.004, 8 cases in both``."""
    cases = f"{check.cases} cases each" if check.p is None else f"p {p_value(check.p)}, {check.cases} cases in both"
    return f"{check.what} {check.text}, {cases}"


def _signed(change: Difference) -> str:
    interval = "" if change.low is None or change.high is None else f" [{change.low:+.2f}, {change.high:+.2f}]"
    return f"{change.value:+.2f}{interval}".replace("-", "−")


def _percent(logarithms: Difference) -> str:
    change, low, high = (
        None if bound is None else math.expm1(bound) for bound in (logarithms.value, logarithms.low, logarithms.high)
    )
    interval = "" if low is None or high is None else f" [{low:+.0%}, {high:+.0%}]"
    return f"{change:+.0%}{interval}".replace("-", "−")
