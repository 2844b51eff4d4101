"""Scores for report tests: made-up rankings, turned into files by the tables of the score stage itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.case import CaseRecord, read_cases
from tasks.params import ScoreParams
from tasks.rca.method import Method, Paper, Ranking
from tasks.rca.pair import PairResult, Suspect
from tasks.rca.runner import Outcome
from tasks.score.results import MISATTRIBUTION_FILE, RANKINGS_FILE, SCORES_FILE, TIMINGS_FILE
from tasks.score.tables import misattribution_table, ranking_table, score_pairs, score_table
from tasks.score.truth import truth_of

Ranker = Callable[[CaseRecord], list[str] | PairResult]


def write_scores(cases_dir: Path, scores_dir: Path, rankers: Mapping[str, Ranker]) -> None:
    """``rankers``: per method, the services of a case in order, or the result of a failure. Every pair took 0.5 s."""
    records = [case.record for case in read_cases(cases_dir)]
    methods = [_method(name) for name in rankers]
    outcomes = [
        Outcome(record.case_id, name, _result(ranker(record))) for record in records for name, ranker in rankers.items()
    ]
    pairs = score_pairs([truth_of(record, include_ineffective=False) for record in records], methods, outcomes)
    scores_dir.mkdir(parents=True)
    params = ScoreParams(methods=tuple(rankers), profile="llm", bootstrap_samples=100)
    ranking_table(pairs).to_parquet(scores_dir / RANKINGS_FILE)
    score_table(pairs, params).to_parquet(scores_dir / SCORES_FILE)
    misattribution_table(pairs).to_parquet(scores_dir / MISATTRIBUTION_FILE)
    timings = [{"case_id": pair.truth.case, "method": pair.method.name, "wall_s": 0.5} for pair in pairs]
    (scores_dir / TIMINGS_FILE).write_text(json.dumps({"pairs": timings}))


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


def _result(ranked: list[str] | PairResult) -> PairResult:
    if isinstance(ranked, PairResult):
        return ranked
    suspects = tuple(
        Suspect(rank=i, service=name, score=1.0 / i, tied=False, metric=None) for i, name in enumerate(ranked, 1)
    )
    return PairResult("ok", suspects=suspects)


def _method(name: str) -> Method:
    def run(*_: object) -> Ranking:
        raise AssertionError("never run: the rankings are made up")

    return Method(
        name=name,
        family="metric",
        needs=frozenset(),
        paper=Paper("made up", "nowhere", 2026),
        cost="cheap",
        seeded=False,
        packages=(),
        summary="",
        module="tests.report.scores",
        run=run,
    )
