"""Says how far a simulation can be believed: simulated twins beside the recorded cases that they repeat."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
from tasks.text import suggest

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
SAMPLES, CONFIDENCE = 2000, 0.95
"""Bootstrap samples of cases for the interval of Kendall's tau."""
SPLITS = 300
"""Random halves of the cases, for what two sets of recorded cases agree in."""
BAND = (0.1, 0.9)
"""Quantiles of the bands of effects over cases."""


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
class Band:
    """How far effects on a metric are from the recorded ones over ``cases``: quantiles ``low``, ``median``, ``high`` of
    log(simulated effect / recorded effect), and the share of cases ``within`` a factor of two."""

    metric: str
    cases: int
    low: float
    median: float
    high: float
    within: float


@dataclass(frozen=True)
class Agreement:
    """How alike methods rank on ``cases`` of both sides. ``tau``: Kendall's tau-b of their mean scores with the ends of
    its interval (bootstrap over cases), None when fewer than three methods are scored on both. ``halves``: its mean
    between random halves of the cases: both recorded, one recorded and the other simulated."""

    what: str
    cases: int
    tau: tuple[float, float, float] | None
    halves: tuple[float, float] | None


@dataclass(frozen=True)
class Validity:
    """``agreements``: of all cases first, then of those that the calibration was fitted to and of the others, then
    without each kind of fault. ``scores``: method -> (recorded, simulated). ``verdicts``: twins with the same verdict,
    and all."""

    cases: int
    effects: tuple[Effect, ...]
    bands: tuple[Band, ...]
    scores: Mapping[str, tuple[float, float]]
    agreements: tuple[Agreement, ...]
    verdicts: tuple[int, int]

    @property
    def scored(self) -> int:
        return self.agreements[0].cases

    @property
    def tau(self) -> tuple[float, float, float] | None:
        return self.agreements[0].tau

    @property
    def agreeing(self) -> int:
        return sum(effect.agrees for effect in self.effects)


def validity(recorded: Sequence[Path], simulated: Path, fitted: Collection[str] = ()) -> Validity:
    """Compare workspaces of recorded cases with that of their simulated twins, which have the same ids. ``fitted``:
    names of the campaigns that the calibration was fitted to.

    Raises:
        CompareError: no case has a twin, or the sides are not what they should be.
    """
    ours = {case.record.case_id: case for case in read_cases(simulated / "cases")}
    pairs = [
        (case, ours[case.record.case_id])
        for folder in recorded
        for case in read_cases(folder / "cases")
        if case.record.case_id in ours
    ]
    if not pairs:
        raise CompareError(f"{simulated}: it has no twin of a case of {_names(recorded)}; `rcarena twins` makes them")
    if any(a.record.stack.simulated or not b.record.stack.simulated for a, b in pairs):
        raise CompareError(f"{_names(recorded)} must hold recorded cases and {simulated} their simulated twins")
    campaigns = {a.record.campaign for a, _ in pairs}
    for name in fitted:
        if name not in campaigns:
            raise CompareError(f"no recorded case is of a campaign '{name}'; {suggest(name, sorted(campaigns))}")
    verdicts = [
        (one.verdict, other.verdict)
        for a, b in pairs
        for one, other in zip(a.record.injections, b.record.injections, strict=True)
    ]
    changes = _changes_of(pairs)
    table = _score_table(recorded, simulated, {a.record.case_id for a, _ in pairs})
    return Validity(
        cases=len(pairs),
        effects=tuple(_effects(changes)),
        bands=tuple(_bands(changes)),
        scores=table.means(),
        agreements=tuple(_agreements(table, {a.record.case_id: a for a, _ in pairs}, fitted)),
        verdicts=(sum(one == other for one, other in verdicts), len(verdicts)),
    )


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


Changes = Mapping[tuple[str, str], list[tuple[float, float]]]
"""(kind, metric) -> change of the metric of the target in each case of one injection: recorded, simulated."""


def _changes_of(pairs: Sequence[tuple[Case, Case]]) -> Changes:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for a, b in pairs:
        if len(a.record.injections) != 1:
            continue
        left, right = _changes(a), _changes(b)
        for metric in left.keys() & right.keys():
            found.setdefault((a.record.injections[0].kind, metric), []).append((left[metric], right[metric]))
    return found


def _effects(changes: Changes) -> list[Effect]:
    effects = [
        Effect(kind, metric, len(values), *(float(np.median([pair[i] for pair in values])) for i in (0, 1)))
        for (kind, metric), values in changes.items()
    ]
    order = list(METRICS)
    return sorted(effects, key=lambda each: (each.kind, order.index(each.metric)))


def _bands(changes: Changes) -> list[Band]:
    found: dict[str, list[float]] = {}
    for (_, metric), values in changes.items():
        found.setdefault(metric, []).extend(other - one for one, other in values if SILENT not in (one, other))
    bands = []
    for metric, differences in sorted(found.items(), key=lambda item: list(METRICS).index(item[0])):
        if differences:
            low, median, high = np.quantile(differences, (BAND[0], 0.5, BAND[1]))
            within = float(np.mean(np.abs(differences) <= WITHIN))
            bands.append(Band(metric, len(differences), float(low), float(median), float(high), within))
    return bands


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


def _agreements(table: Scores, cases: Mapping[str, Case], fitted: Collection[str]) -> Iterator[Agreement]:
    known = [cases[case_id].record for case_id in table.cases]
    kinds = [{injection.kind for injection in record.injections} for record in known]
    parts: dict[str, list[bool]] = {"all": [True] * len(known)}
    if fitted:
        parts["fitted to"] = [record.campaign in fitted for record in known]
        parts["held out"] = [record.campaign not in fitted for record in known]
    for kind in sorted(set().union(*kinds)):
        parts[f"without {kind}"] = [kind not in own for own in kinds]
    for what, mask in parts.items():
        part = table.part(np.array(mask, dtype=bool))
        yield Agreement(what, len(part.cases), part.tau(), part.halves())


@dataclass(frozen=True)
class Scores:
    """``values``: the leading score of ``methods``, shape (2, methods, cases): recorded, simulated."""

    methods: tuple[str, ...]
    values: np.ndarray
    cases: tuple[str, ...] = ()

    def part(self, mask: np.ndarray) -> Scores:
        """Return those of some cases."""
        return Scores(self.methods, self.values[:, :, mask], tuple(np.array(self.cases)[mask]))

    def means(self) -> dict[str, tuple[float, float]]:
        if not self.values.shape[2]:
            return {}
        recorded, simulated = self.values.mean(axis=2)
        return {name: (float(a), float(b)) for name, a, b in zip(self.methods, recorded, simulated, strict=True)}

    def tau(self) -> tuple[float, float, float] | None:
        """Return Kendall's tau-b of the means, and its percentile interval over resampled cases."""
        cases = self.values.shape[2]
        if len(self.methods) < 3 or not cases:
            return None
        tau = _tau(*self.values.mean(axis=2))
        if not np.isfinite(tau):
            return None
        rng = np.random.default_rng(0)
        samples = [_tau(*self.values[:, :, rng.integers(cases, size=cases)].mean(axis=2)) for _ in range(SAMPLES)]
        ends = np.nanquantile(samples, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        return tau, float(ends[0]), float(ends[1])

    def halves(self) -> tuple[float, float] | None:
        """Return the mean of Kendall's tau-b between random halves of the cases: both recorded, and one simulated. As
        far below 1 as the first is, it is not the simulation's fault."""
        cases = self.values.shape[2]
        if len(self.methods) < 3 or cases < 4:
            return None
        rng, found = np.random.default_rng(1), []
        for _ in range(SPLITS):
            order = rng.permutation(cases)
            one, other = (self.values[:, :, half].mean(axis=2) for half in (order[: cases // 2], order[cases // 2 :]))
            found.append((_tau(one[0], other[0]), _tau(one[0], other[1])))
        both = np.nanmean(found, axis=0)
        return float(both[0]), float(both[1])


def _score_table(recorded: Sequence[Path], simulated: Path, cases: set[str]) -> Scores:
    """Return the scores of the methods and cases that are scored on both sides."""
    sides = []
    for folders in (recorded, (simulated,)):
        if not all((folder / "scores").is_dir() for folder in folders):
            return Scores((), np.zeros((2, 0, 0)))
        known: dict[str, dict[str, float]] = {}
        for folder in folders:
            side = read_side(folder, "", str(folder))
            for method, scores in side.scores.items():
                if method not in side.references:
                    known.setdefault(method, {}).update(scores[LEADING_SCORE])
        sides.append(known)
    methods = tuple(method for method in sides[0] if method in sides[1])
    shared = cases.intersection(*(side[method].keys() for side in sides for method in methods)) if methods else set()
    order = sorted(shared)
    values = [[[side[method][case] for case in order] for method in methods] for side in sides]
    return Scores(methods, np.array(values, dtype=float).reshape(2, len(methods), len(order)), tuple(order))


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    """Return Kendall's tau-b (Kendall, "The Treatment of Ties in Ranking Problems", 1945), NaN when all are equal."""
    above = np.triu_indices(len(one), 1)
    a, b = (np.sign(np.round(side[:, None] - side, 12))[above] for side in (one, other))
    ties = np.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / ties if ties else float("nan")


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
        *_ranking(found),
        "## Effects by metric",
        "",
        f"Simulated effect / recorded effect of the target over cases of one injection: median, {BAND[0]:.0%} and "
        f"{BAND[1]:.0%} quantile, and the share of cases within a factor of two.",
        "",
        "| metric | cases | median | band | within a factor of two |",
        "|---|---|---|---|---|",
        *(
            f"| {each.metric} | {each.cases} | {_ratio(each.median)} | {_ratio(each.low)} to {_ratio(each.high)} "
            f"| {each.within:.0%} |"
            for each in found.bands
        ),
        "",
        "## Effects by kind and metric",
        "",
        "| kind | metric of the target | cases | recorded | simulated | agree |",
        "|---|---|---|---|---|---|",
    ]
    for each in found.effects:
        figures = (_ratio(each.recorded), _ratio(each.simulated), "yes" if each.agrees else "**no**")
        lines.append("| " + " | ".join((each.kind, each.metric, str(each.cases), *figures)) + " |")
    return "\n".join(lines) + "\n"


def _ranking(found: Validity) -> list[str]:
    """Return the lines of the ranking of the methods."""
    if not found.scores:
        return []
    lines = [
        "## Ranking of the methods",
        "",
        f"Kendall's tau-b of the mean Avg@5 of {len(found.scores)} methods on {found.scored} cases with a root: "
        f"**{_tau_text(found.tau)}** ({CONFIDENCE:.0%} interval, bootstrap over cases; asked for: {AGREED_TAU:g} or "
        f"more). Halves: the mean over {SPLITS} random splits of the cases, both halves recorded, and one simulated; "
        "what two recorded halves do not agree in is chance.",
        "",
        "| cases | scored | tau | halves: both recorded | recorded and simulated |",
        "|---|---|---|---|---|",
        *(
            f"| {each.what} | {each.cases} | {_tau_text(each.tau)} | "
            + (" | ".join(f"{half:.2f}" for half in each.halves) if each.halves else "– | –")
            + " |"
            for each in found.agreements
        ),
        "",
        "| method | recorded | simulated |",
        "|---|---|---|",
    ]
    ordered = sorted(found.scores.items(), key=lambda item: -item[1][0])
    return [*lines, *(f"| {method} | {one:.2f} | {other:.2f} |" for method, (one, other) in ordered), ""]


def _tau_text(tau: tuple[float, float, float] | None) -> str:
    return "not defined" if tau is None else f"{tau[0]:.2f} [{tau[1]:.2f}, {tau[2]:.2f}]"


def _ratio(effect: float) -> str:
    return "no samples" if effect == SILENT else f"× {np.exp(effect):.2g}"
