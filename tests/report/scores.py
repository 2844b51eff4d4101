"""Scores for report tests: made-up rankings, turned into files by the score stage itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas as pd

from tasks.case import CaseRecord, read_cases
from tasks.params import ScoreParams
from tasks.rca.method import Family, Method, Paper, Ranking
from tasks.rca.run.builder import ViewFacts
from tasks.rca.run.pair import MetricSuspect, PairResult, Suspect
from tasks.score.assemble import score_tables
from tasks.score.detection import detection_table
from tasks.score.files import SCORE_TABLE, TABLES, TIMINGS_FILE, write_score_files
from tasks.score.results import method_costs
from tasks.score.tables import in_order, score_pair
from tasks.score.traits import traits_of
from tasks.score.truth import Column, truth_of
from tests.synthetic import LEVELS

Ranker = Callable[[CaseRecord], list[str] | PairResult]
YARDSTICK = "dice"
"""A method of this name is a yardstick."""
NEW_FILES = tuple(table.file for table in TABLES if not table.first)


def write_scores(
    cases_dir: Path,
    scores_dir: Path,
    rankers: Mapping[str, Ranker],
    *,
    families: Mapping[str, Family] | None = None,
    beyond: Collection[str] = (),
    late_s: Mapping[str, float | None] | None = None,
) -> None:
    """``rankers``: per method, the services of a case in order, or its whole result. Every pair took 0.5 s and 200 MiB
    unless its result says otherwise.

    ``late_s``: if the moments of the faults were detected, by case how many seconds too late (None: not detected).
    """
    cases = read_cases(cases_dir)
    records = [case.record for case in cases]
    traits = {case.record.case_id: traits_of(case) for case in cases}
    methods = [_method(name, (families or {}).get(name, "metric"), beyond=name in beyond) for name in rankers]
    truths = tuple(
        truth_of(
            record,
            include_ineffective=False,
            columns=columns_of(record),
            stratum=traits[record.case_id].stratum or "",
        )
        for record in records
    )
    scored = [
        score_pair(truth, method, _result(rankers[method.name](record)))
        for record, truth in zip(records, truths, strict=True)
        for method in methods
    ]
    pairs = in_order(truths, methods, scored)
    params = ScoreParams(methods=tuple(rankers), profile="llm", bootstrap_samples=100)
    facts = {record.case_id: _facts(record, (late_s or {}).get(record.case_id)) for record in records}
    tables = score_tables(pairs, truths, traits, detection_table(records if late_s else [], facts), params)
    write_score_files(scores_dir, tables, {TIMINGS_FILE: {"method_costs": method_costs(pairs), "pairs": []}})


def as_an_older_stage_wrote(scores_dir: Path) -> None:
    """Without what scores had not before there were metric-level scores, comparisons and strata."""
    for name in NEW_FILES:
        (scores_dir / name).unlink()
    for table in (table for table in TABLES if table.first):
        file = scores_dir / table.file
        written = pd.read_parquet(file)
        if table == SCORE_TABLE:
            written = written[written["granularity"] == "service"]
            written = written[~written["level"].isin(["stratum", "macro"])]
        written.drop(columns=sorted(table.later)).to_parquet(file)
    (scores_dir / TIMINGS_FILE).write_text(json.dumps({"pairs": []}))


def columns_of(record: CaseRecord) -> list[Column]:
    """The metrics of a synthetic case."""
    return [(service, metric) for service in record.service_names for metric in LEVELS]


def truth_at(rank: int) -> Ranker:
    """A method that puts the first injection's target at ``rank`` and the other services in their order around it."""

    def order(record: CaseRecord) -> list[str]:
        if not record.injections:
            return list(record.service_names)
        target = record.injections[0].target
        others = [name for name in record.service_names if name != target]
        return [*others[: rank - 1], target, *others[rank - 1 :]]

    return order


def fails(message: str = "out of luck") -> Ranker:
    return lambda record: PairResult("error", message)


def ranked(services: list[str], columns: list[Column] | None = None) -> PairResult:
    """A result with these services in order and, for a method that ranks metrics, these columns."""
    metrics = tuple(MetricSuspect(i, *column, 1.0 / i, False) for i, column in enumerate(columns or (), 1))
    worst: dict[str, str] = {}
    for service, metric in columns or ():
        worst.setdefault(service, metric)
    suspects = tuple(Suspect(i, name, 1.0 / i, False, worst.get(name)) for i, name in enumerate(services, 1))
    return PairResult("ok", suspects=suspects, metrics=metrics)


def _result(found: list[str] | PairResult) -> PairResult:
    result = ranked(found) if isinstance(found, list) else found
    return result if result.wall_s else replace(result, wall_s=0.5, cpu_s=0.5, peak_mb=200.0, grown_mb=1.0)


def _facts(record: CaseRecord, late_s: float | None) -> ViewFacts:
    if late_s is None:
        return ViewFacts(columns=(), inject_time="", problem="no change detected")
    return ViewFacts(columns=(), inject_time=(record.injection_time + timedelta(seconds=late_s)).isoformat())


def _method(name: str, family: Family, *, beyond: bool = False) -> Method:
    def run(*_: object) -> Ranking:
        raise AssertionError("never run: the rankings are made up")

    return Method(
        name=name,
        family=family,
        beyond=beyond,
        reference=name == YARDSTICK,
        needs=frozenset(),
        paper=Paper("made up", "nowhere", 2026),
        cost="cheap",
        seeded=False,
        packages=(),
        summary="",
        module="tests.report.scores",
        run=run,
    )
