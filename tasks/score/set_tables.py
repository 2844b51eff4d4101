"""Builds the tables of cases, sets, kinds and negatives. Columns: docs/scores.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.params import ScoreParams
from tasks.rca.method import Finding
from tasks.score.bootstrap import bootstrap_interval
from tasks.score.files import CASE_TABLE, KIND_TABLE, NEGATIVE_TABLE, SET_SCORE_TABLE, SET_TABLE
from tasks.score.intervals import poisson_interval, wilson_interval
from tasks.score.sets import OrderMatch, SetMatch, kind_counts, match_order, match_sets, roots_named
from tasks.score.tables import Scored
from tasks.score.traits import CaseTraits
from tasks.score.truth import Truth

ALL = "all"
_DECIMALS = 9
_SET_MEANS = ("set_precision", "set_recall", "set_f1", "service_precision", "service_recall", "service_f1")


@dataclass(frozen=True)
class SetPair:
    """A pair of a scored case. ``sets``: None if the method does not say how many roots there are."""

    truth: Truth
    method: str
    sets: SetMatch | None
    order: OrderMatch


def case_table(truths: Sequence[Truth], traits: Mapping[str, CaseTraits]) -> pd.DataFrame:
    """One row per case: its class, stratum, symptoms and what users saw."""
    rows: list[tuple[object, ...]] = []
    for truth in truths:
        of_case = traits[truth.case]
        impact = of_case.impact
        symptoms: list[object] = []
        for at in (of_case.root, of_case.other):
            symptoms += (at.service, at.strength, at.metric) if at else (None, np.nan, None)
        seen = astuple(impact) if impact else (*(None,) * 6, np.nan, np.nan)
        labels = (truth.case, truth.scenario, truth.fault, truth.target, "+".join(truth.services), truth.excluded)
        others = ("+".join(dict.fromkeys(v.service for v in truth.victims)), "+".join(sorted(truth.disturbed)))
        rows.append((*labels, *others, of_case.case_class, of_case.reason, of_case.stratum or "", *symptoms, *seen))
    return CASE_TABLE.of(rows)


def set_pairs(pairs: Sequence[Scored]) -> list[SetPair]:
    """Return the pairs of scored cases, with sets for the methods that say in any case how many roots there are.

    A case in which such a method fails, or does not say, has nobody named.
    """
    saying = {pair.method.name for pair in pairs if pair.result.findings is not None}
    return [
        SetPair(
            pair.truth,
            pair.method.name,
            match_sets(pair.result.findings, pair.truth.roots) if pair.method.name in saying else None,
            match_order(pair.result, pair.truth),
        )
        for pair in pairs
        if not pair.truth.excluded
    ]


def set_table(pairs: Sequence[SetPair]) -> pd.DataFrame:
    """One row per pair that has sets, or an order to get right."""
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        s, o = pair.sets, pair.order
        if s is None and not o.victim_pairs:
            continue
        sets = (None,) * 8 if s is None else (s.truths, s.answers, s.hits, s.wrong_kinds, s.unknown_kinds)
        if s is not None:
            sets = (*sets, s.services_true, s.services_named, s.services_hit)
        roots = (None, None) if s is None else (o.root_pairs, o.roots_right)
        rows.append((pair.truth.case, pair.method, *sets, o.victim_pairs, o.victims_right, *roots))
    return SET_TABLE.of(rows)


def set_score_table(pairs: Sequence[SetPair], params: ScoreParams) -> pd.DataFrame:
    """Long table: per level, group, method and score the value with its interval and what it is a mean over.

    Levels: ``overall``, ``fault``, ``roots`` (how many there are), ``scenario``, ``stratum``. A score without a case is
    left out.
    """
    rows: list[tuple[object, ...]] = []
    for level, group, members in _groups(pairs):
        for method in dict.fromkeys(pair.method for pair in members):
            of_method = [pair for pair in members if pair.method == method]
            rows += [(level, group, method, *row) for row in _method_rows(of_method, f"sets|{level}|{group}", params)]
    table = SET_SCORE_TABLE.of(rows)
    table[["value", "low", "high"]] = table[["value", "low", "high"]].round(_DECIMALS)
    return table


def _groups(pairs: Sequence[SetPair]) -> Iterator[tuple[str, str, list[SetPair]]]:
    label: dict[str, Callable[[Truth], str]] = {
        "overall": lambda truth: ALL,
        "fault": lambda truth: truth.fault,
        "roots": lambda truth: str(len({(root.service, root.kind) for root in truth.roots})),
        "scenario": lambda truth: truth.scenario,
        "stratum": lambda truth: truth.stratum,
    }
    for level, of in label.items():
        for group in sorted({of(pair.truth) for pair in pairs} - {""}):
            yield level, group, [pair for pair in pairs if of(pair.truth) == group]


def _method_rows(pairs: Sequence[SetPair], label: str, params: ScoreParams) -> Iterator[tuple[object, ...]]:
    """Yield (score, value, low, high, n, unit) of one method on one group of cases."""
    matches = [pair.sets for pair in pairs if pair.sets is not None]
    if matches:
        each = [match.scores() for match in matches]
        for name in _SET_MEANS:
            yield _mean(name, [scores[name] for scores in each], label, params)
        yield _share("set_exact", sum(int(scores["set_exact"]) for scores in each), len(each), "cases", params)
        named = sum(match.hits + match.wrong_kinds for match in matches)
        if named:
            yield _share("kind_accuracy", sum(match.hits for match in matches), named, "roots", params)
            yield _share("kind_unknown", sum(match.unknown_kinds for match in matches), named, "roots", params)
    orders = [pair.order.scores() for pair in pairs]
    for name in ("victim_order", "order"):
        values = [scores[name] for scores in orders if not math.isnan(scores[name])]
        if values and (matches or name == "victim_order"):
            yield _mean(name, values, label, params)
    first = [scores["root_first"] for scores in orders if not math.isnan(scores["root_first"])]
    if first:
        yield _share("root_first", int(sum(first)), len(first), "cases", params)


def _mean(name: str, values: Sequence[float], label: str, params: ScoreParams) -> tuple[object, ...]:
    low, high = bootstrap_interval(
        np.array(values)[:, None],
        samples=params.bootstrap_samples,
        confidence=params.confidence,
        seed=params.seed,
        label=label,
    )
    return name, float(np.mean(values)), float(low[0]), float(high[0]), len(values), "cases"


def _share(name: str, hits: int, total: int, unit: str, params: ScoreParams) -> tuple[object, ...]:
    return name, hits / total, *wilson_interval(hits, total, params.confidence), total, unit


def kind_table(pairs: Sequence[SetPair]) -> pd.DataFrame:
    """How often each kind was named for each true kind, per method, over the roots whose service was named."""
    rows: list[tuple[object, ...]] = []
    for method in dict.fromkeys(pair.method for pair in pairs):
        counts = kind_counts(pair.sets for pair in pairs if pair.method == method and pair.sets is not None)
        rows += [(method, *kinds, count) for kinds, count in sorted(counts.items())]
    return KIND_TABLE.of(rows)


def negative_table(pairs: Sequence[Scored], params: ScoreParams) -> pd.DataFrame:
    """False roots of each method that says how many roots there are, over all cases without a root and per scenario."""
    negatives = [pair for pair in pairs if pair.truth.negative]
    saying = dict.fromkeys(pair.method.name for pair in pairs if pair.result.findings is not None)
    groups = [ALL, *sorted({pair.truth.scenario for pair in negatives} - {""})]
    rows: list[tuple[object, ...]] = []
    for group in groups:
        members = [pair for pair in negatives if group in (ALL, pair.truth.scenario)]
        for method in saying:
            of_method = [pair for pair in members if pair.method.name == method]
            judged = [(pair.truth, pair.result.findings) for pair in of_method if pair.result.findings is not None]
            if of_method:
                rows.append((method, group, *_negative_row(judged, len(of_method) - len(judged), params)))
    table = NEGATIVE_TABLE.of(rows)
    numbers = [name for name, kind in NEGATIVE_TABLE.columns.items() if kind == "float64"]
    table[numbers] = table[numbers].round(_DECIMALS)
    return table


def _negative_row(
    judged: Sequence[tuple[Truth, tuple[Finding, ...]]], silent: int, params: ScoreParams
) -> tuple[Any, ...]:
    named = [{service for service, _ in roots_named(findings)} for _, findings in judged]
    alarmed, false_roots = sum(map(bool, named)), sum(map(len, named))
    disturbed = sum(len(services & truth.disturbed) for services, (truth, _) in zip(named, judged, strict=True))
    hours = sum(truth.watched_s for truth, _ in judged) / 3600
    share = alarmed / len(judged) if judged else math.nan
    return (
        *(len(judged), silent, alarmed),
        *(share, *wilson_interval(alarmed, len(judged), params.confidence)),
        *(false_roots, disturbed),
        *(false_roots / len(judged) if judged else math.nan, hours),
        *(false_roots / hours if hours else math.nan, *poisson_interval(false_roots, hours, params.confidence)),
    )
