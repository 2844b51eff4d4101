"""Says how far a simulation can be believed: simulated twins beside the recorded cases that they repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.case import Case, read_cases
from tasks.compare.errors import CompareError
from tasks.compare.side import read_side
from tasks.metrics import METRICS, Metric
from tasks.score.accuracy import LEADING_SCORE

SHOWN: tuple[Metric, ...] = (
    metrics.CPU_USAGE,
    metrics.CPU_THROTTLED,
    metrics.MEMORY_RSS,
    metrics.NETWORK_TRANSMIT,
    metrics.NETWORK_RECEIVE,
    metrics.PROCESSES,
    metrics.LATENCY_P50,
    metrics.LATENCY_P90,
    metrics.TTFT_MEAN,
    metrics.INTER_TOKEN_LATENCY_MEAN,
    metrics.E2E_LATENCY_MEAN,
    metrics.GENERATION_TOKENS_RATE,
    metrics.REQUEST_RATE,
    metrics.SERVE_PROCESSING_LATENCY_MEAN,
)
"""The metrics whose effects are compared."""
WITHIN = float(np.log(2))
"""Effects (logarithms of ratios) agree when they differ by less than this or by less than half of the recorded one."""
SILENT = -np.inf
FLOOR = 1e-9
AGREED_TAU = 0.7


@dataclass(frozen=True)
class Effect:
    """The change of a metric of the target by a kind of fault: medians over ``cases`` of log(during / before);
    ``SILENT``: no samples during the fault."""

    kind: str
    metric: str
    cases: int
    recorded: float
    simulated: float

    @property
    def agrees(self) -> bool:
        if SILENT in (self.recorded, self.simulated):
            return self.recorded == self.simulated
        return abs(self.recorded - self.simulated) <= max(WITHIN, abs(self.recorded) / 2)


@dataclass(frozen=True)
class Validity:
    """``tau``: Kendall's tau-b of the methods' mean scores on both sides, None when fewer than three are scored on
    both. ``scores``: method -> (recorded, simulated). ``verdicts``: twins with the same verdict, and all."""

    cases: int
    effects: tuple[Effect, ...]
    scores: Mapping[str, tuple[float, float]]
    tau: float | None
    verdicts: tuple[int, int]

    @property
    def agreeing(self) -> int:
        return sum(effect.agrees for effect in self.effects)


def validity(recorded: Path, simulated: Path) -> Validity:
    """Compare the workspace of recorded cases with that of their simulated twins, which have the same ids.

    Raises:
        CompareError: no case has a twin, or the sides are not what they should be.
    """
    ours = {case.record.case_id: case for case in read_cases(simulated / "cases")}
    pairs = [
        (case, ours[case.record.case_id]) for case in read_cases(recorded / "cases") if case.record.case_id in ours
    ]
    if not pairs:
        raise CompareError(
            f"{simulated}: it has no twin of a case of {recorded}; `rcarena calibrate --twins` makes them"
        )
    if any(a.record.stack.simulated or not b.record.stack.simulated for a, b in pairs):
        raise CompareError(f"{recorded} must hold recorded cases and {simulated} their simulated twins")
    verdicts = [
        (one.verdict, other.verdict)
        for a, b in pairs
        for one, other in zip(a.record.injections, b.record.injections, strict=True)
    ]
    scores = _scores(recorded, simulated, {a.record.case_id for a, _ in pairs})
    return Validity(
        cases=len(pairs),
        effects=tuple(_effects(pairs)),
        scores=scores,
        tau=_tau(scores),
        verdicts=(sum(one == other for one, other in verdicts), len(verdicts)),
    )


def _effects(pairs: Sequence[tuple[Case, Case]]) -> list[Effect]:
    single = [(a, b) for a, b in pairs if len(a.record.injections) == 1]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for a, b in single:
        kind = a.record.injections[0].kind
        left, right = _changes(a), _changes(b)
        for metric in left.keys() & right.keys():
            found.setdefault((kind, metric), []).append((left[metric], right[metric]))
    effects = [
        Effect(kind, metric, len(values), *(float(np.median([pair[i] for pair in values])) for i in (0, 1)))
        for (kind, metric), values in found.items()
    ]
    order = list(METRICS)
    return sorted(effects, key=lambda each: (each.kind, order.index(each.metric)))


def _changes(case: Case) -> dict[str, float]:
    """Return log(during / before) of each shown metric of the target; the first seconds of the fault are left out."""
    (injection,) = case.record.injections
    begin, end = injection.begin, (injection.observed or injection.planned).end
    settled = begin + pd.Timedelta(seconds=case.record.sampling.rate_window_s or 5)
    rows = case.metrics
    rows = rows[(rows["service"] == injection.target) & rows["metric"].isin([metric.name for metric in SHOWN])]
    changes = {}
    for metric, own in rows.groupby("metric", observed=True):
        before = own[own["time"] < begin]["value"].dropna()
        during = own[(own["time"] >= settled) & (own["time"] < end)]["value"].dropna()
        if len(before) < 3:
            continue
        if len(during) < 3:
            changes[str(metric)] = SILENT
            continue
        levels = [max(float(each.median()), FLOOR) for each in (before, during)]
        if levels[0] > FLOOR:
            changes[str(metric)] = float(np.log(levels[1] / levels[0]))
    return changes


def _scores(recorded: Path, simulated: Path, cases: set[str]) -> dict[str, tuple[float, float]]:
    sides = []
    for folder in (recorded, simulated):
        if not (folder / "scores").is_dir():
            return {}
        sides.append(read_side(folder, "", str(folder)))
    means = [
        {
            method: float(np.mean([value for case, value in scores[LEADING_SCORE].items() if case in cases]))
            for method, scores in side.scores.items()
            if method not in side.references and cases & scores[LEADING_SCORE].keys()
        }
        for side in sides
    ]
    return {method: (means[0][method], means[1][method]) for method in means[0] if method in means[1]}


def _tau(scores: Mapping[str, tuple[float, float]]) -> float | None:
    from scipy.stats import kendalltau

    if len(scores) < 3:
        return None
    recorded, simulated = zip(*scores.values(), strict=True)
    tau = float(kendalltau(recorded, simulated).statistic)
    return tau if np.isfinite(tau) else None


def markdown(found: Validity) -> str:
    """Return the tables for docs: effects by kind and metric, and scores by method."""
    lines = [
        "# How far the simulation can be believed",
        "",
        "Made by `rcarena validity RECORDED SIMULATED --page FILE`. Effects are medians of during / before.",
        "",
        f"{found.cases} recorded cases and their twins. {found.agreeing} of {len(found.effects)} effects agree (within "
        "a factor of two, or of half of the recorded logarithm); "
        f"{found.verdicts[0]} of {found.verdicts[1]} verdicts are the same.",
        "",
        "| kind | metric of the target | cases | recorded | simulated | agree |",
        "|---|---|---|---|---|---|",
    ]
    for each in found.effects:
        figures = (_ratio(each.recorded), _ratio(each.simulated), "yes" if each.agrees else "**no**")
        lines.append("| " + " | ".join((each.kind, each.metric, str(each.cases), *figures)) + " |")
    if found.scores:
        tau = "not defined" if found.tau is None else f"{found.tau:.2f}"
        lines += ["", f"Kendall's tau of the methods' mean Avg@5: **{tau}** (asked for: {AGREED_TAU:g} or more).", ""]
        lines += ["| method | recorded | simulated |", "|---|---|---|"]
        ordered = sorted(found.scores.items(), key=lambda item: -item[1][0])
        lines += [f"| {method} | {one:.2f} | {other:.2f} |" for method, (one, other) in ordered]
    return "\n".join(lines) + "\n"


def _ratio(effect: float) -> str:
    return "no samples" if effect == SILENT else f"× {np.exp(effect):.2g}"
