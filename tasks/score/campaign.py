"""Scores a campaign: every method on every case, then tables."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.case import Case, read_cases
from tasks.params import ParamsError, ScoreParams
from tasks.rca.registry import get_method, validate_methods
from tasks.rca.runner import Limits, Outcome, run_pairs
from tasks.rca.view import CaseView, build_view, check_inject_time
from tasks.score.accuracy import SCORES
from tasks.score.tables import Scored, misattribution_table, ranking_table, score_pairs, score_table
from tasks.score.truth import Truth, truth_of

Progress = Callable[[int, int, str], None]

RANKINGS_FILE = "rankings.parquet"
SCORES_FILE = "scores.parquet"
MISATTRIBUTION_FILE = "misattribution.parquet"
METRICS_FILE = "metrics.json"
TIMINGS_FILE = "timings.json"
_STAGING = ".partial"


class ScoreError(ValueError):
    """There is nothing to score."""


@dataclass(frozen=True)
class ScoreTable:
    """A table for people: a header, one row per method and a chance row; ``notes`` say what was left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The table and its notes as plain lines."""
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                 for row in (self.columns, *self.rows)]  # fmt: skip
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class ScoreResult:
    """What ``score_campaign`` wrote to ``out_dir``."""

    out_dir: Path
    rankings: pd.DataFrame
    scores: pd.DataFrame
    misattribution: pd.DataFrame
    truths: tuple[Truth, ...]
    failures: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not in the scores, and why; one line each."""
        lines = [f"not scored: {truth.case}: {truth.excluded}" for truth in self.truths if truth.excluded]
        lines += [f"not counted: {note}" for truth in self.truths for note in truth.notes]
        failed = self.rankings[self.rankings["status"] != "ok"]
        lines += [
            f"failed: {reason[0]} on {len(rows)} of {len(self.truths)} cases: {reason[1]}: {reason[2]}"
            for reason, rows in failed.groupby(["method", "status", "message"])
        ]
        return tuple(lines)

    def score_table(self) -> ScoreTable:
        """AC@1 and Avg@5 per method: over all faults with interval, and per fault kind as ``AC@1 / Avg@5``."""
        if self.scores.empty:
            return ScoreTable(("method",), (("(no case to score)",),), self.notes)
        table = self.scores[self.scores["level"].isin(["overall", "fault"])]
        cells: dict[tuple[str, str, str], Any] = {
            (str(row.group), str(row.method), str(row.score)): row for row in table.itertuples(index=False)
        }
        cases = dict(zip(table["group"].tolist(), table["cases"].tolist(), strict=True))
        faults = [group for group in cases if group != "all"]
        methods = table["method"].drop_duplicates().tolist()
        columns = (
            "method",
            f"AC@1 ({cases['all']} cases)",
            "Avg@5",
            *(f"{fault} ({cases[fault]})" for fault in faults),
            "failed",
        )
        rows = [
            (
                method,
                *(_with_interval(cells["all", method, score]) for score in ("ac1", "avg5")),
                *(_pair(cells[fault, method, score].value for score in ("ac1", "avg5")) for fault in faults),
                str(round(cells["all", method, "failure_rate"].value * cases["all"])),
            )
            for method in methods
        ]
        chance = (
            "(chance)",
            *(f"{cells['all', methods[0], score].chance:.2f}" for score in ("ac1", "avg5")),
            *(_pair(cells[fault, methods[0], score].chance for score in ("ac1", "avg5")) for fault in faults),
            "",
        )
        return ScoreTable(columns, (*rows, chance), self.notes)


def validate_score_params(params: ScoreParams) -> list[str]:
    """Problems of the section ``score`` that only this stage can see, one line each."""
    return validate_methods(params.methods) + check_inject_time(params)


def score_campaign(
    cases_dir: Path,
    params: ScoreParams,
    out_dir: Path,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
) -> ScoreResult:
    """Run every method of ``params`` on every finished case below ``cases_dir`` and write the results to ``out_dir``.

    Same cases and parameters give the same bytes, whatever the number of ``workers``, in every file but
    ``timings.json``. Files are replaced whole, when all is done. ``progress`` is called with (done, total, what was
    done).

    Raises:
        ParamsError: an unknown method or a value not available.
        ScoreError: there is no finished case.
        CaseError: a case does not keep the contract.
        RunnerError: the workers cannot start.
    """
    problems = validate_score_params(params)
    if problems:
        raise ParamsError(problems)
    cases = read_cases(cases_dir)
    if not cases:
        raise ScoreError(f"{cases_dir}: no finished case to score; collect some first")
    methods = [get_method(name) for name in params.methods]
    limits = Limits(params.timeout_s, params.memory_mb)
    total = len(cases) * len(methods)
    outcomes: list[Outcome] = []
    for outcome in run_pairs(_views(cases, params), methods, limits=limits, seed=params.seed, workers=workers):
        outcomes.append(outcome)
        if progress is not None:
            progress(len(outcomes), total, f"{outcome.method} on {outcome.case}: {outcome.result.status}")
    truths = [truth_of(case.record, include_ineffective=params.include_ineffective) for case in cases]
    pairs = score_pairs(truths, methods, outcomes)
    result = ScoreResult(
        out_dir=out_dir,
        rankings=ranking_table(pairs),
        scores=score_table(pairs, params),
        misattribution=misattribution_table(pairs),
        truths=tuple(truths),
        failures=sum(pair.outcome.result.status != "ok" for pair in pairs),
    )
    _write(result, pairs)
    return result


def _views(cases: Sequence[Case], params: ScoreParams) -> Iterator[tuple[str, CaseView]]:
    for case in cases:
        fresh = Case(case.path, case.record)  # its tables are freed with it
        yield case.record.case_id, build_view(fresh, params)


def _write(result: ScoreResult, pairs: Sequence[Scored]) -> None:
    staging = result.out_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    tables = {
        RANKINGS_FILE: result.rankings,
        SCORES_FILE: result.scores,
        MISATTRIBUTION_FILE: result.misattribution,
    }
    documents = {TIMINGS_FILE: _timings(pairs), METRICS_FILE: _metrics(result)}
    for name, table in tables.items():
        table.to_parquet(staging / name, index=False)
    for name, document in documents.items():
        (staging / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name in (*tables, *documents):
        (staging / name).replace(result.out_dir / name)
    staging.rmdir()


def _metrics(result: ScoreResult) -> dict[str, Any]:
    """What ``dvc metrics`` shows: per method the scores over all cases, failures, and the scores per fault kind."""
    document: dict[str, Any] = {
        "cases": {
            "scored": sum(not truth.excluded for truth in result.truths),
            "fault_free": sum(truth.excluded == "fault-free" for truth in result.truths),
            "ineffective": sum(truth.excluded not in ("", "fault-free") for truth in result.truths),
        },
        "chance": {},
        "methods": {},
    }
    wanted = result.scores[result.scores["score"].isin(SCORES) & result.scores["level"].isin(["overall", "fault"])]
    failed = result.rankings[result.rankings["status"] != "ok"].groupby("method").size()
    for method in result.rankings["method"].drop_duplicates():
        entry: dict[str, Any] = {"failures": int(failed.get(method, 0)), "by_fault": {}}
        for row in wanted[wanted["method"] == method].itertuples(index=False):
            place = entry if row.level == "overall" else entry["by_fault"].setdefault(row.group, {})
            place[row.score] = row.value
            if row.level == "overall":
                document["chance"][row.score] = row.chance
        document["methods"][method] = entry
    return document


def _timings(pairs: Sequence[Scored]) -> dict[str, Any]:
    return {
        "pairs": [
            {
                "case_id": pair.truth.case,
                "method": pair.method.name,
                "wall_s": round(pair.outcome.result.wall_s, 6),
                "cpu_s": round(pair.outcome.result.cpu_s, 6),
                "peak_mb": round(pair.outcome.result.peak_mb, 1),
                "traceback": pair.outcome.result.traceback,
            }
            for pair in pairs
        ]
    }


def _with_interval(row: Any) -> str:
    interval = "" if math.isnan(row.low) else f" [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.value:.2f}{interval}"


def _pair(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
