"""What the score stage wrote (columns: docs/scores.md), as the page needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

RANKINGS_FILE = "rankings.parquet"
SCORES_FILE = "scores.parquet"
MISATTRIBUTION_FILE = "misattribution.parquet"
TIMINGS_FILE = "timings.json"

SCORE_LABELS = {"ac1": "AC@1", "ac3": "AC@3", "ac5": "AC@5", "avg5": "Avg@5", "mrr": "MRR"}
LEADING_SCORE = "avg5"
RANKED = "ok"
NOTHING = "(nothing)"
LEVELS = ("overall", "fault", "target", "family")

_RANKING_COLUMNS = (
    *("case_id", "fault", "target", "excluded", "method", "status", "message"),
    *("rank", "service", "score", "tied", "correct"),
)
_SCORE_COLUMNS = (
    *("level", "group", "granularity", "method", "score"),
    *("value", "low", "high", "chance", "lift", "cases"),
)
_MISATTRIBUTION_COLUMNS = ("method", "truth", "predicted", "cases")


class ScoresError(ValueError):
    """A result file of the score stage that cannot be used."""


@dataclass(frozen=True)
class Suspect:
    rank: int
    service: str
    score: float | None
    tied: bool
    truth: bool


@dataclass(frozen=True)
class MethodResult:
    """One method on one case. ``truth_ranks``: ranks of the true root causes that it named, ascending. ``excluded``:
    why the case is not in the scores; empty if it is."""

    method: str
    status: str
    message: str
    excluded: str
    suspects: tuple[Suspect, ...]
    truth_ranks: tuple[int, ...]

    @property
    def ranked(self) -> bool:
        return self.status == RANKED


@dataclass(frozen=True)
class Estimate:
    """A score with its bootstrap interval and the value that guessing would reach; None: not defined."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    lift: float | None


@dataclass(frozen=True)
class ScoreRow:
    """``name`` is a method, or a family in the group of families. ``seconds``: mean wall time per case."""

    name: str
    cases: int
    estimates: Mapping[str, Estimate]
    failures: int
    seconds: float | None


@dataclass(frozen=True)
class ScoreGroup:
    """``level`` is one of ``LEVELS``."""

    level: str
    title: str
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class HeatCell:
    """``share`` of the row's cases, 0 to 1; ``right``: the blamed service is a true root cause."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Misattribution:
    """One row of cells per true root cause (several joined by ``+``), one column per service blamed first."""

    method: str
    predicted: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True)
class Scoreboard:
    """``results`` by case id, in the order of ``methods``."""

    methods: tuple[str, ...]
    groups: tuple[ScoreGroup, ...]
    misattributions: tuple[Misattribution, ...]
    results: Mapping[str, tuple[MethodResult, ...]]


def read_scoreboard(scores_dir: Path) -> Scoreboard | None:
    """None when the score stage has not run.

    Raises:
        ScoresError: a file is missing while others exist, or is not what the score stage writes.
    """
    if not (scores_dir / RANKINGS_FILE).exists() and not (scores_dir / SCORES_FILE).exists():
        return None
    rankings = _table(scores_dir / RANKINGS_FILE, _RANKING_COLUMNS)
    scores = _table(scores_dir / SCORES_FILE, _SCORE_COLUMNS)
    scores = scores[scores["granularity"] == "service"]
    misattribution = _table(scores_dir / MISATTRIBUTION_FILE, _MISATTRIBUTION_COLUMNS)
    methods = tuple(str(method) for method in rankings["method"].drop_duplicates())
    return Scoreboard(
        methods=methods,
        groups=tuple(_groups(scores, rankings, _wall_seconds(scores_dir / TIMINGS_FILE))),
        misattributions=tuple(
            _misattribution(method, misattribution[misattribution["method"] == method]) for method in methods
        ),
        results=_results(rankings),
    )


def _table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file)
    except (OSError, pa.ArrowException) as error:
        raise ScoresError(f"{file.name}: cannot be read ({error}); run the score stage again") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ScoresError(f"{file.name}: has no column {', '.join(missing)}; run the score stage again")
    return table


def _wall_seconds(file: Path) -> pd.Series:
    """Wall time in seconds by (case_id, method); empty when there is no such file."""
    names = ["case_id", "method"]
    if not file.exists():
        return pd.DataFrame(columns=[*names, "wall_s"], dtype=float).set_index(names)["wall_s"]
    try:
        pairs = json.loads(file.read_text(encoding="utf-8"))["pairs"]
        return pd.DataFrame(pairs, columns=[*names, "wall_s"]).set_index(names)["wall_s"].astype(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoresError(f"{file.name}: cannot be read ({error}); run the score stage again") from error


def _groups(scores: pd.DataFrame, rankings: pd.DataFrame, wall: pd.Series) -> Iterator[ScoreGroup]:
    seconds = _mean_seconds(rankings, wall)
    for level in LEVELS:
        of_level = scores[scores["level"] == level]
        if level == "family":
            rows = tuple(_row(str(g), rows, None) for g, rows in of_level.groupby("group", sort=False))
            if len(rows) > 1:
                yield ScoreGroup(level, "Families (mean over their methods)", rows)
            continue
        for group, members in of_level.groupby("group", sort=False):
            title = "all scored cases" if level == "overall" else str(group)
            by_method = members.groupby("method", sort=False)
            entries = ((str(method), rows) for method, rows in by_method)
            yield ScoreGroup(
                level, title, tuple(_row(name, rows, seconds.get((level, str(group), name))) for name, rows in entries)
            )


def _mean_seconds(rankings: pd.DataFrame, wall: pd.Series) -> Mapping[tuple[str, str, str], float]:
    """Mean wall seconds per case by (level, group, method), over the scored cases."""
    pairs = rankings.loc[rankings["excluded"] == "", ["case_id", "method", "fault", "target"]].drop_duplicates()
    pairs = pairs.join(wall, on=["case_id", "method"]).dropna(subset="wall_s").assign(overall="all")
    means: dict[tuple[str, str, str], float] = {}
    for level in ("overall", "fault", "target"):
        mean = pairs.groupby([level, "method"])["wall_s"].mean().reset_index()
        for row in mean.to_dict("records"):
            means[level, row[level], row["method"]] = float(row["wall_s"])
    return means


def _row(name: str, rows: pd.DataFrame, seconds: float | None) -> ScoreRow:
    by_score = {str(row["score"]): row for row in rows.to_dict("records")}
    cases = int(rows["cases"].iloc[0])
    failure_rate = by_score["failure_rate"]["value"]
    return ScoreRow(
        name=name,
        cases=cases,
        estimates={score: _estimate(by_score[score]) for score in SCORE_LABELS if score in by_score},
        failures=round(failure_rate * cases),
        seconds=seconds,
    )


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(**{name: _number(row[name]) for name in ("value", "low", "high", "chance", "lift")})


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _misattribution(method: str, table: pd.DataFrame) -> Misattribution:
    counts = table.pivot_table(index="truth", columns="predicted", values="cases", aggfunc="sum", fill_value=0)
    truths = sorted(str(truth) for truth in counts.index)
    named = {service for truth in truths for service in truth.split("+")} | {str(name) for name in counts.columns}
    predicted = tuple(sorted(named, key=lambda name: (name == NOTHING, name)))
    counts = counts.reindex(index=truths, columns=list(predicted), fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    rows = [
        tuple(
            HeatCell(int(count), round(float(share), 3), name in truth.split("+"))
            for name, count, share in zip(predicted, counts.loc[truth], shares.loc[truth], strict=True)
        )
        for truth in truths
    ]
    return Misattribution(method, predicted, tuple(zip(truths, rows, strict=True)))


def _results(rankings: pd.DataFrame) -> dict[str, tuple[MethodResult, ...]]:
    suspects: dict[tuple[str, str], list[Suspect]] = {}
    for row in rankings.dropna(subset="rank").sort_values("rank", kind="stable").to_dict("records"):
        suspects.setdefault((row["case_id"], row["method"]), []).append(
            Suspect(row["rank"], row["service"], _number(row["score"]), bool(row["tied"]), bool(row["correct"]))
        )
    results: dict[str, list[MethodResult]] = {}
    for row in rankings.drop_duplicates(["case_id", "method"]).to_dict("records"):
        ranked = tuple(suspects.get((row["case_id"], row["method"]), ()))
        result = MethodResult(
            method=row["method"],
            status=row["status"],
            message=row["message"],
            excluded=row["excluded"],
            suspects=ranked,
            truth_ranks=tuple(suspect.rank for suspect in ranked if suspect.truth),
        )
        results.setdefault(row["case_id"], []).append(result)
    return {case_id: tuple(found) for case_id, found in results.items()}
