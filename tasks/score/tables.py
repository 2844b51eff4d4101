"""Builds the tables of the score stage: rankings, scores with intervals, misattribution, comparisons. Columns:
docs/scores.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tasks.params import ScoreParams
from tasks.rca.method import Coverage, Method
from tasks.rca.run.pair import PairResult
from tasks.score.accuracy import SCORES, ranking_scores, tail_scores
from tasks.score.bootstrap import bootstrap_interval, stratified_interval
from tasks.score.comparison import (
    average_ranks,
    cliques,
    friedman_p_value,
    holm,
    mcnemar_p_values,
    sign_flip_p_values,
)
from tasks.score.files import (
    AVERAGE_RANK_TABLE,
    COMPARISON_TABLE,
    COVERAGE_TABLE,
    EVIDENCE_TABLE,
    FINDING_TABLE,
    METRIC_RANKING_TABLE,
    MISATTRIBUTION_TABLE,
    RANKING_TABLE,
    SCORE_TABLE,
)
from tasks.score.first_place import first_place
from tasks.score.intervals import wilson_interval
from tasks.score.references import mean_references, targeted_roles
from tasks.score.truth import Truth
from tasks.stack import Role

RATES = ("failure_rate", "tie_rate")
COMPARED = ("ac1", "avg5", "mrr")
GRANULARITIES = ("service", "metric")
NOTHING = "(nothing)"
MACRO_GROUP = "strata"
METRICS_KEPT = 50
"""Of each ranking of metrics the first that many are kept, and every correct one further down."""
_DECIMALS = 9


@dataclass(frozen=True)
class Scored:
    """A pair with its scores by granularity: a failure has zeros, a case that does not count has none."""

    truth: Truth
    method: Method
    result: PairResult
    scores: Mapping[str, Mapping[str, float]]


def score_pair(truth: Truth, method: Method, result: PairResult) -> Scored:
    """Score a pair, at metric level too; ``in_order`` removes those scores for methods that rank no metric."""
    metrics = truth.metrics
    correct = frozenset().union(*metrics.causes)
    scores: dict[str, Mapping[str, float]] = {}
    if not truth.excluded:
        ranks = [suspect.rank for suspect in result.suspects if suspect.service in truth.services]
        absent = (1,) * (len(truth.services) - len(ranks))
        rest = len(truth.candidates) - len(result.suspects)
        ties = any(suspect.tied for suspect in result.suspects)
        scores["service"] = _scores(result, ranks, absent, len(result.suspects), rest, ties)
    if not metrics.excluded:
        named = [(suspect.service, suspect.metric) for suspect in result.metrics]
        place = {
            column: suspect.rank for column, suspect in zip(named, result.metrics, strict=True) if column in correct
        }
        found = [[place[column] for column in cause if column in place] for cause in metrics.causes]
        absent = tuple(len(cause) for cause, ranks in zip(metrics.causes, found, strict=True) if not ranks)
        listed = len(metrics.columns.intersection(named))
        ties = any(suspect.tied for suspect in result.metrics)
        best = [min(ranks) for ranks in found if ranks]
        scores["metric"] = _scores(result, best, absent, len(result.metrics), metrics.candidates - listed, ties)
    kept = tuple(
        suspect
        for suspect in result.metrics
        if suspect.rank <= METRICS_KEPT or (suspect.service, suspect.metric) in correct
    )
    return Scored(truth, method, replace(result, metrics=kept), scores)


def _scores(
    result: PairResult, ranks: Sequence[int], absent: Sequence[int], listed: int, rest: int, ties: bool
) -> dict[str, float]:
    """Score a list and its random tail. ``absent``, ``listed``, ``rest``: see ``tail_scores``. A failure has no list
    and no tail."""
    failed = result.status != "ok"
    as_given = ranking_scores(ranks, len(ranks) + len(absent))
    tail = as_given if failed else tail_scores(ranks, absent, listed, rest)
    rates = {"failure_rate": float(failed), "tie_rate": float(ties)}
    return as_given | rates | {tail_of(name): value for name, value in tail.items()}


def tail_of(score: str) -> str:
    """Return the name in ``Scored.scores`` of a score with a random tail."""
    return f"{score}_tail"


def in_order(truths: Sequence[Truth], methods: Sequence[Method], pairs: Iterable[Scored]) -> list[Scored]:
    """Return the pairs ordered by ``truths``, then by ``methods``, without scores at metric level for methods that
    never ranked a metric."""
    by_pair = {(pair.truth.case, pair.method.name): pair for pair in pairs}
    rank_metrics = {pair.method.name for pair in by_pair.values() if pair.result.metrics}
    ordered = []
    for truth in truths:
        for method in methods:
            pair = by_pair[truth.case, method.name]
            if method.name not in rank_metrics:
                scores = {name: scores for name, scores in pair.scores.items() if name != "metric"}
                pair = replace(pair, scores=scores)
            ordered.append(pair)
    return ordered


def ranking_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per suspect; a pair without suspects has one row whose service is null."""
    return RANKING_TABLE.of(row for pair in pairs for row in _ranking_rows(pair))


def _ranking_rows(pair: Scored) -> Iterator[tuple[object, ...]]:
    truth, result = pair.truth, pair.result
    head = (
        truth.case,
        truth.fault,
        truth.target,
        "+".join(truth.services),
        truth.excluded,
        truth.metrics.excluded,
        pair.method.name,
        pair.method.family,
        pair.method.reference,
        pair.method.beyond,
        result.status,
        result.message,
    )
    for s in result.suspects:
        yield (*head, s.rank, s.service, s.metric, s.score, s.tied, s.service in truth.services)
    if not result.suspects:
        yield (*head, None, None, None, np.nan, None, None)


def metric_ranking_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per metric that a method named: the first ``METRICS_KEPT`` and every correct one."""
    return METRIC_RANKING_TABLE.of(row for pair in pairs for row in _metric_rows(pair))


def _metric_rows(pair: Scored) -> Iterator[tuple[object, ...]]:
    correct = frozenset().union(*pair.truth.metrics.causes)
    for s in pair.result.metrics:
        named = s.service, s.metric
        yield (pair.truth.case, pair.method.name, s.rank, *named, s.score, s.tied, named in correct)


def finding_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per finding of the pairs whose method says how many roots there are; a pair in which it says that there
    is none has one row without ``finding``."""
    return FINDING_TABLE.of(row for pair in pairs for row in _finding_rows(pair))


def _finding_rows(pair: Scored) -> Iterator[tuple[object, ...]]:
    head = pair.truth.case, pair.method.name
    for i, f in enumerate(pair.result.findings or (), 1):
        onset = np.nan if f.onset_s is None else f.onset_s
        yield (*head, i, f.role, f.service, f.kind, f.significance, onset)
    if pair.result.findings == ():
        yield (*head, None, None, None, None, np.nan, np.nan)


def evidence_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per piece of evidence; ``finding`` is that of the finding table."""
    return EVIDENCE_TABLE.of(row for pair in pairs for row in _evidence_rows(pair))


def _evidence_rows(pair: Scored) -> Iterator[tuple[object, ...]]:
    for i, f in enumerate(pair.result.findings or (), 1):
        for e in f.evidence:
            numbers = (np.nan if value is None else value for value in (e.before, e.during, e.siblings))
            yield (pair.truth.case, pair.method.name, i, e.signal, e.sentence, e.unit, *numbers)


def coverage_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per kind of evidence that a method says it had (``seen``) or lacked."""
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        coverage = pair.result.coverage or Coverage()
        for seen, names in ((True, coverage.seen), (False, coverage.missing)):
            rows += [(pair.truth.case, pair.method.name, name, seen) for name in names]
    return COVERAGE_TABLE.of(rows)


def score_table(pairs: Sequence[Scored], params: ScoreParams) -> pd.DataFrame:
    """Long table: per level, group, granularity, method and score the mean over cases with interval, chance and lift.

    ``value`` takes lists as given, ``tail`` with a random tail. Levels: ``overall`` (group ``all``), ``fault``,
    ``target``, ``scenario``, ``stratum``, ``macro`` (group ``strata``: the mean over strata, each weighing the same),
    ``family`` (group: the family; a case's score is the mean over its methods, references left out; ``method`` empty).
    Methods beyond the paper's 24 form families of their own (``metric, beyond``), so that the paper's families stay
    comparable. ``wilson_low``, ``wilson_high``: of AC@1 of a method, which is 0 or 1 in each case.
    """
    rows: list[tuple[object, ...]] = []
    roles = targeted_roles(pair.truth for pair in pairs)
    for granularity in GRANULARITIES:
        for level, group, members in _groups([pair for pair in pairs if granularity in pair.scores]):
            for alike in [members] if level == "family" else _by_profile(members):
                rows += _group_rows(level, group, granularity, alike, roles, params)
    table = SCORE_TABLE.of(rows)
    numbers = [name for name, kind in SCORE_TABLE.columns.items() if kind == "float64"]
    table[numbers] = table[numbers].round(_DECIMALS)
    return table


def _by_profile(pairs: Sequence[Scored]) -> list[list[Scored]]:
    """Group pairs by profile: the chance line, and at metric level the cases that count, depend on what is visible."""
    profiles = dict.fromkeys(pair.truth.profile for pair in pairs)
    return [[pair for pair in pairs if pair.truth.profile == profile] for profile in profiles]


def misattribution_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """How often each service was blamed first, per method, fault and true root cause (the label of the target), and
    which error that was."""
    counts = Counter(
        (
            pair.method.name,
            pair.truth.fault,
            pair.truth.target,
            pair.result.suspects[0].service if pair.result.suspects else NOTHING,
            first_place(pair.result, pair.truth),
        )
        for pair in pairs
        if pair.scores
    )
    return MISATTRIBUTION_TABLE.of([(*key, cases) for key, cases in sorted(counts.items())])


def comparison_table(pairs: Sequence[Scored], params: ScoreParams) -> pd.DataFrame:
    """Compare every two methods on the same cases, per score: mean difference, wins, and significance."""
    values, methods = _values(pairs, "service", COMPARED)
    couples = list(combinations(range(len(methods)), 2))
    rows: list[tuple[object, ...]] = []
    for s, score in enumerate(COMPARED):
        if not couples or not len(values):
            continue
        of_score = values[:, :, s].round(_DECIMALS)
        first, second = (of_score[:, list(side)] for side in zip(*couples, strict=True))
        differences = first - second
        p = sign_flip_p_values(differences, seed=params.seed, label=score)
        corrected = holm(p)
        exact = mcnemar_p_values(differences) if score == "ac1" else np.full(len(couples), np.nan)
        exact_corrected = holm(exact)
        for c, (a, b) in enumerate(couples):
            wins, losses = int(np.sum(differences[:, c] > 0)), int(np.sum(differences[:, c] < 0))
            counts = (wins, len(values) - wins - losses, losses)
            mean = round(float(differences[:, c].mean()), _DECIMALS)
            significant = corrected[c] <= 1 - params.confidence
            row = (score, methods[a], methods[b], len(values), mean, *counts, p[c], corrected[c], significant)
            rows.append((*row, exact[c], exact_corrected[c]))
    return COMPARISON_TABLE.of(rows)


def average_rank_table(pairs: Sequence[Scored], comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the data of a critical-difference plot, per score: average rank of each method over the cases, and its
    cliques."""
    values, methods = _values(pairs, "service", COMPARED)
    rows: list[tuple[object, ...]] = []
    for s, score in enumerate(COMPARED):
        if not len(values):
            continue
        ranks = average_ranks(values[:, :, s])
        position = {method: i for i, method in enumerate(methods)}
        significant = np.zeros((len(methods), len(methods)), dtype=bool)
        found = comparisons[(comparisons["score"] == score) & comparisons["significant"]]
        for a, b in zip(found["method_a"].map(position), found["method_b"].map(position), strict=True):
            significant[a, b] = significant[b, a] = True
        groups = cliques(ranks, significant)
        friedman = friedman_p_value(values[:, :, s])
        for m in np.argsort(ranks, kind="stable"):
            member_of = "+".join(str(number) for number, group in enumerate(groups, 1) if m in group)
            rows.append((score, methods[m], round(float(ranks[m]), _DECIMALS), len(values), friedman, member_of))
    return AVERAGE_RANK_TABLE.of(rows)


def _groups(pairs: Sequence[Scored]) -> Iterator[tuple[str, str, list[Scored]]]:
    if not pairs:
        return
    yield "overall", "all", list(pairs)
    for fault in sorted({pair.truth.fault for pair in pairs}):
        yield "fault", fault, [pair for pair in pairs if pair.truth.fault == fault]
    for target in sorted({pair.truth.target for pair in pairs}):
        yield "target", target, [pair for pair in pairs if pair.truth.target == target]
    for scenario in sorted({pair.truth.scenario for pair in pairs} - {""}):
        yield "scenario", scenario, [pair for pair in pairs if pair.truth.scenario == scenario]
    for stratum in _strata(pairs):
        yield "stratum", stratum, [pair for pair in pairs if pair.truth.stratum == stratum]
    if _strata(pairs):
        yield "macro", MACRO_GROUP, [pair for pair in pairs if pair.truth.stratum]
    compared = [pair for pair in pairs if not pair.method.reference]
    for family in sorted(set(map(_family, compared))):
        yield "family", family, [pair for pair in compared if _family(pair) == family]


def _family(pair: Scored) -> str:
    return f"{pair.method.family}, beyond" if pair.method.beyond else pair.method.family


def _strata(pairs: Iterable[Scored]) -> list[str]:
    return sorted({pair.truth.stratum for pair in pairs} - {""})


def _values(pairs: Sequence[Scored], granularity: str, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return scores as (cases, methods, names), NaN for a pair without any, and the methods that have some."""
    pairs = [pair for pair in pairs if granularity in pair.scores]
    case_row = {case: i for i, case in enumerate(dict.fromkeys(pair.truth.case for pair in pairs))}
    method_row = {method: i for i, method in enumerate(dict.fromkeys(pair.method.name for pair in pairs))}
    values = np.full((len(case_row), len(method_row), len(names)), np.nan)
    for pair in pairs:
        scores = pair.scores[granularity]
        values[case_row[pair.truth.case], method_row[pair.method.name]] = [scores[name] for name in names]
    return values, list(method_row)


def _group_rows(
    level: str, group: str, granularity: str, pairs: Sequence[Scored], roles: frozenset[Role], params: ScoreParams
) -> list[tuple[object, ...]]:
    names = [*SCORES, *RATES, *map(tail_of, SCORES)]
    values, methods = _values(pairs, granularity, names)
    if level == "family":
        values, methods = np.nanmean(values, axis=1, keepdims=True), [""]
    cases = len(values)
    how: dict[str, Any] = {
        "samples": params.bootstrap_samples,
        "confidence": params.confidence,
        "seed": params.seed,
        "label": f"{level}|{group}",
    }
    flat = values.reshape(cases, -1)
    if level == "macro":
        strata = np.array(list({pair.truth.case: pair.truth.stratum for pair in pairs}.values()))
        parts = [flat[strata == stratum] for stratum in _strata(pairs)]
        means = np.mean([part.mean(axis=0) for part in parts], axis=0).reshape(values.shape[1:])
        low, high = stratified_interval(parts, **how)
    else:
        means = values.mean(axis=0)
        low, high = bootstrap_interval(flat, **how)
    bounds = np.stack([low, high]).reshape(2, len(methods), len(names))
    rows: list[tuple[object, ...]] = []
    for m, method in enumerate(methods):
        of_method = [pair.truth for pair in pairs if method in ("", pair.method.name)]
        expected = _expected(level, of_method, granularity, roles)
        figures = {name: (means[m, s], *bounds[:, m, s]) for s, name in enumerate(names)}
        for name in (*SCORES, *RATES):
            chance, *others = (of_reference.get(name, np.nan) for of_reference in expected.values())
            tail = figures.get(tail_of(name), (np.nan,) * 3)
            lift = figures[name][0] / chance
            wilson = (np.nan, np.nan)
            if name == "ac1" and level not in ("family", "macro"):
                wilson = wilson_interval(round(means[m, 0] * cases), cases, params.confidence)
            row = (level, group, granularity, method, name, *figures[name], chance, lift, cases, *tail, *others)
            rows.append((*row, *wilson))
    return rows


def _expected(
    level: str, truths: Sequence[Truth], granularity: str, roles: frozenset[Role]
) -> dict[str, dict[str, float]]:
    """Return the references of a row; at level ``macro`` their mean over strata."""
    if level != "macro":
        return mean_references(truths, granularity, roles)
    strata = sorted({truth.stratum for truth in truths})
    parts = [mean_references([t for t in truths if t.stratum == stratum], granularity, roles) for stratum in strata]
    return {
        reference: {score: sum(part[reference][score] for part in parts) / len(parts) for score in scores}
        for reference, scores in parts[0].items()
    }
