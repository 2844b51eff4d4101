"""From outcomes to tables: rankings, scores with intervals, misattribution. Columns: docs/scores.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.runner import Outcome
from tasks.score.accuracy import SCORES, chance_scores, ranking_scores
from tasks.score.bootstrap import bootstrap_interval
from tasks.score.truth import Truth

RATES = ("failure_rate", "tie_rate")
NOTHING = "(nothing)"
_DECIMALS = 9

RANKING_COLUMNS = {
    "case_id": "str",
    "fault": "str",
    "target": "str",
    "truth": "str",
    "excluded": "str",
    "method": "str",
    "family": "str",
    "status": "str",
    "message": "str",
    "rank": "Int32",
    "service": "str",
    "metric": "str",
    "score": "float64",
    "tied": "boolean",
    "correct": "boolean",
}
SCORE_COLUMNS = ("level", "group", "method", "score", "value", "low", "high", "chance", "lift", "cases")


@dataclass(frozen=True)
class Scored:
    """One pair with its scores: a failure has zero in each."""

    truth: Truth
    method: Method
    outcome: Outcome
    scores: dict[str, float]


def score_pairs(truths: Sequence[Truth], methods: Sequence[Method], outcomes: Sequence[Outcome]) -> list[Scored]:
    """Every pair in the order of ``truths`` and ``methods``; pairs of cases that are not scored have no scores."""
    by_pair = {(outcome.case, outcome.method): outcome for outcome in outcomes}
    pairs = []
    for truth in truths:
        for method in methods:
            outcome = by_pair[truth.case, method.name]
            scores: dict[str, float] = {}
            if not truth.excluded:
                ranks = [suspect.rank for suspect in outcome.result.suspects if suspect.service in truth.services]
                scores = ranking_scores(ranks, len(truth.services))
                scores["failure_rate"] = float(outcome.result.status != "ok")
                scores["tie_rate"] = float(any(suspect.tied for suspect in outcome.result.suspects))
            pairs.append(Scored(truth, method, outcome, scores))
    return pairs


def ranking_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """One row per suspect; a pair without suspects has one row whose service is null."""
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        truth, result = pair.truth, pair.outcome.result
        head = (
            truth.case,
            truth.fault,
            truth.target,
            "+".join(truth.services),
            truth.excluded,
            pair.method.name,
            pair.method.family,
            result.status,
            result.message,
        )
        for s in result.suspects:
            rows.append((*head, s.rank, s.service, s.metric, s.score, s.tied, s.service in truth.services))
        if not result.suspects:
            rows.append((*head, None, None, None, np.nan, None, None))
    return pd.DataFrame(rows, columns=list(RANKING_COLUMNS)).astype(RANKING_COLUMNS)


def score_table(pairs: Sequence[Scored], params: ScoreParams) -> pd.DataFrame:
    """Long table: per level, group, method and score the mean over cases with interval, chance and lift.

    Levels: ``overall`` (group ``all``), ``fault``, ``target``, ``family`` (group: the family; a case's score is the
    mean over its methods; ``method`` empty).
    """
    scored = [pair for pair in pairs if pair.scores]
    rows: list[tuple[object, ...]] = []
    for level, group, members in _groups(scored):
        rows += _group_rows(level, group, members, params)
    table = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    numbers = ["value", "low", "high", "chance", "lift"]
    table[numbers] = table[numbers].astype("float64").round(_DECIMALS)
    text = ["level", "group", "method", "score"]
    return table.astype({**dict.fromkeys(text, "str"), "cases": "int64"})


def misattribution_table(pairs: Sequence[Scored]) -> pd.DataFrame:
    """How often each service was blamed first, per method, fault and true root cause (several joined by ``+``)."""
    rows = [
        (
            pair.method.name,
            pair.truth.fault,
            "+".join(pair.truth.services),
            pair.outcome.result.suspects[0].service if pair.outcome.result.suspects else NOTHING,
        )
        for pair in pairs
        if pair.scores
    ]
    columns = ["method", "fault", "truth", "predicted"]
    table = pd.DataFrame(rows, columns=columns).astype("str")
    return table.groupby(columns, sort=True).size().rename("cases").reset_index().astype({"cases": "int64"})


def _groups(pairs: Sequence[Scored]) -> Iterator[tuple[str, str, list[Scored]]]:
    if not pairs:
        return
    yield "overall", "all", list(pairs)
    for fault in sorted({pair.truth.fault for pair in pairs}):
        yield "fault", fault, [pair for pair in pairs if pair.truth.fault == fault]
    for target in sorted({pair.truth.target for pair in pairs}):
        yield "target", target, [pair for pair in pairs if pair.truth.target == target]
    for family in sorted({pair.method.family for pair in pairs}):
        yield "family", family, [pair for pair in pairs if pair.method.family == family]


def _group_rows(level: str, group: str, pairs: Sequence[Scored], params: ScoreParams) -> list[tuple[object, ...]]:
    cases = list(dict.fromkeys(pair.truth.case for pair in pairs))
    methods = list(dict.fromkeys(pair.method.name for pair in pairs))
    names = [*SCORES, *RATES]
    values = np.zeros((len(cases), len(methods), len(names)))
    position = {case: i for i, case in enumerate(cases)}, {method: i for i, method in enumerate(methods)}
    for pair in pairs:
        values[position[0][pair.truth.case], position[1][pair.method.name]] = [pair.scores[name] for name in names]
    if level == "family":
        values, methods = values.mean(axis=1, keepdims=True), [""]
    low, high = bootstrap_interval(
        values.reshape(len(cases), -1),
        samples=params.bootstrap_samples,
        confidence=params.confidence,
        seed=params.seed,
        label=f"{level}|{group}",
    )
    bounds = np.stack([low, high]).reshape(2, len(methods), len(names))
    means = values.mean(axis=0)
    truths = {pair.truth.case: pair.truth for pair in pairs}
    per_case = [chance_scores(truth.candidates, len(truth.services)) for truth in truths.values()]
    chance = {name: sum(scores[name] for scores in per_case) / len(per_case) for name in SCORES}
    rows: list[tuple[object, ...]] = []
    for m, method in enumerate(methods):
        for s, name in enumerate(names):
            expected = chance.get(name, np.nan)
            interval = bounds[0, m, s], bounds[1, m, s]
            rows.append(
                (level, group, method, name, means[m, s], *interval, expected, means[m, s] / expected, len(cases))
            )
    return rows
