"""Scores and rankings for the report: methods best first, with references."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tasks.rca.method import Coverage, Finding
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS
from tasks.score.files import ScoreFiles, number, read_score_files
from tasks.score.findings import read_coverage, read_findings
from tasks.score.references import REFERENCE_LABELS, REFERENCES

LEVELS = ("overall", "fault", "target", "scenario", "stratum", "macro", "family")
RANKED = "ok"
SUSPECTS_KEPT = 20
_ORDER = ("avg5", "mrr", "ac1")
_DECIMALS = 9

Granularity = Literal["service", "metric"]


@dataclass(frozen=True)
class Suspect:
    """A ranked service. ``metric``: its worst metric, where the method names metrics."""

    rank: int
    service: str
    metric: str | None
    score: float | None
    tied: bool
    truth: bool


@dataclass(frozen=True)
class MethodResult:
    """One method on one case.

    ``suspects``: the first ``SUSPECTS_KEPT`` and every true root cause, of ``listed`` services; ``truth_ranks``:
    ranks of the true root causes in its ranking, ascending. ``metric_rank``: rank of the first metric that names a root
    cause, else None. ``excluded``: why the case is not scored; empty if it is. ``findings``: None if the method does
    not say how many root causes there are. ``coverage``: None if it does not say which evidence it had.
    """

    method: str
    status: str
    message: str
    excluded: str
    suspects: tuple[Suspect, ...]
    truth_ranks: tuple[int, ...]
    metric_rank: int | None
    findings: tuple[Finding, ...] | None = None
    coverage: Coverage | None = None
    listed: int = 0

    @property
    def ranked(self) -> bool:
        return self.status == RANKED

    @property
    def best_rank(self) -> float:
        """Sort key: rank of the best ranked root cause; then rankings without one, then failures."""
        if not self.ranked:
            return math.inf
        return self.truth_ranks[0] if self.truth_ranks else float(sys.maxsize)


@dataclass(frozen=True)
class Estimate:
    """A score with its bootstrap interval and the expected scores of guessing; None: undefined, or from an older score
    stage. ``tail``: the score if services missing from a ranking followed in random order. ``wilson_low``,
    ``wilson_high``: of AC@1 in groups of cases."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    lift: float | None
    role_prior: float | None = None
    chance_per_column: float | None = None
    tail: float | None = None
    wilson_low: float | None = None
    wilson_high: float | None = None

    @property
    def beats_references(self) -> bool:
        """The whole interval lies above chance and every other reference."""
        known = [value for name in REFERENCES if (value := getattr(self, name)) is not None]
        return self.low is not None and bool(known) and self.low > max(known)


@dataclass(frozen=True)
class Reference:
    """A random order as a row beside the methods, with its expected value by score."""

    label: str
    expected: Mapping[str, float]

    def lift(self, chance: Reference, score: str) -> float:
        return self.expected[score] / chance.expected[score]


@dataclass(frozen=True)
class ScoreRow:
    """Scores of a method, or of a family in the group of families. ``place``: 1 for the best Avg@5, shared by equals.
    ``failures``, ``ties``: cases in which the method failed, or ranked services equal. ``beyond``: a method that is not
    one of the paper's 24."""

    name: str
    family: str
    place: int
    cases: int
    estimates: Mapping[str, Estimate]
    failures: int
    ties: int
    beyond: bool = False


@dataclass(frozen=True)
class ScoreGroup:
    """Scores of one group of cases. ``level`` is one of ``LEVELS``; rows best first."""

    level: str
    title: str
    rows: tuple[ScoreRow, ...]

    @property
    def cases(self) -> int:
        return self.rows[0].cases

    @property
    def references(self) -> tuple[Reference, ...]:
        """References, chance first; the same for all methods."""
        estimates = self.rows[0].estimates
        found = []
        for name, label in REFERENCE_LABELS.items():
            values = {score: getattr(estimate, name) for score, estimate in estimates.items()}
            if None not in values.values():
                found.append(Reference(label, values))
        return tuple(found)

    @property
    def entries(self) -> tuple[ScoreRow | Reference, ...]:
        """Rows and references, best first; equal rows precede references."""
        waiting = sorted(self.references, key=lambda reference: -reference.expected[LEADING_SCORE])
        found: list[ScoreRow | Reference] = []
        for row in self.rows:
            value = row.estimates[LEADING_SCORE].value
            while waiting and (value is None or waiting[0].expected[LEADING_SCORE] > value):
                found.append(waiting.pop(0))
            found.append(row)
        return (*found, *waiting)

    def row(self, name: str) -> ScoreRow | None:
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Unscored:
    """Cases scored at service level but not at metric level."""

    reason: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of one granularity. ``methods``: best first; ``groups``: overall, then faults, targets, families."""

    granularity: Granularity
    methods: tuple[str, ...]
    groups: tuple[ScoreGroup, ...]

    @property
    def overall(self) -> ScoreGroup | None:
        return next(iter(self.at("overall")), None)

    def at(self, *levels: str) -> tuple[ScoreGroup, ...]:
        return tuple(group for group in self.groups if group.level in levels)


@dataclass(frozen=True)
class Scoreboard:
    """All scores. ``methods``: best first. ``results``: by case id, in that order. ``files``: the tables read.
    ``explained``: methods that give evidence for what they find."""

    methods: tuple[str, ...]
    services: Scores
    metrics: Scores
    unscored_metrics: tuple[Unscored, ...]
    results: Mapping[str, tuple[MethodResult, ...]]
    files: ScoreFiles
    explained: frozenset[str] = frozenset()


def read_scoreboard(scores_dir: Path) -> Scoreboard | None:
    """Read the scores; None when the score stage has not run.

    Raises:
        ScoreError: a file of the score stage is missing or malformed.
    """
    files = read_score_files(scores_dir)
    if files is None:
        return None
    families = dict(zip(files.rankings["method"].tolist(), files.rankings["family"].tolist(), strict=True))
    beyond = frozenset(files.rankings.loc[files.rankings["beyond"], "method"])
    services = _scores("service", files.scores, families, beyond)
    methods = tuple(sorted(families, key=_position((*services.methods, *families))))
    return Scoreboard(
        methods=methods,
        services=services,
        metrics=_scores("metric", files.scores, families, beyond),
        unscored_metrics=tuple(_unscored_metrics(files.rankings)),
        results=_results(files, methods),
        files=files,
        explained=frozenset(files.evidence["method"]) if files.evidence is not None else frozenset(),
    )


def _position(order: Iterable[str]) -> Any:
    place: dict[str, int] = {}
    for name in order:
        place.setdefault(name, len(place))
    return place.__getitem__


def _scores(
    granularity: Granularity, table: pd.DataFrame, families: Mapping[str, str], beyond: Collection[str]
) -> Scores:
    groups = tuple(_groups(table[table["granularity"] == granularity].to_dict("records"), families, beyond))
    overall = next((group for group in groups if group.level == "overall"), None)
    return Scores(granularity, tuple(row.name for row in overall.rows) if overall else (), groups)


def _groups(
    cells: Iterable[Mapping[Any, Any]], families: Mapping[str, str], beyond: Collection[str]
) -> Iterator[ScoreGroup]:
    """Yield the groups from ``cells``, rows of the table of scores. All families form one group."""
    found: dict[str, dict[str, dict[str, dict[str, Mapping[Any, Any]]]]] = {level: {} for level in LEVELS}
    for cell in cells:
        group, name = ("", cell["group"]) if cell["level"] == "family" else (cell["group"], cell["method"])
        by_name = found.setdefault(cell["level"], {}).setdefault(group, {})
        by_name.setdefault(name, {})[cell["score"]] = cell
    titles = {"overall": "all scored cases", "family": "families of methods", "macro": "mean of strata"}
    for level in LEVELS:
        for group, by_name in found[level].items():
            if level != "family" or len(by_name) > 1:
                yield ScoreGroup(level, titles.get(level, group), _rows(by_name, families, beyond))


def _rows(
    by_name: Mapping[str, Mapping[str, Mapping[Any, Any]]], families: Mapping[str, str], beyond: Collection[str]
) -> tuple[ScoreRow, ...]:
    """Return one row per name from its cells by score; best first, ties broken by the next score, then input order."""
    found: list[tuple[tuple[float, ...], ScoreRow]] = []
    for name, by_score in by_name.items():
        cases = int(next(iter(by_score.values()))["cases"])
        row = ScoreRow(
            name=name,
            family=families.get(name, ""),
            place=0,
            cases=cases,
            estimates={score: _estimate(by_score[score]) for score in SCORE_LABELS if score in by_score},
            failures=_count(by_score, "failure_rate", cases),
            ties=_count(by_score, "tie_rate", cases),
            beyond=name in beyond,
        )
        values = (row.estimates[score].value if score in row.estimates else None for score in _ORDER)
        found.append((tuple(-1.0 if value is None else round(value, _DECIMALS) for value in values), row))
    found.sort(key=lambda entry: tuple(-value for value in entry[0]))
    leading = [values[0] for values, _ in found]
    return tuple(replace(row, place=1 + sum(other > values[0] for other in leading)) for values, row in found)


def _count(by_score: Mapping[str, Mapping[Any, Any]], rate: str, cases: int) -> int:
    return round(by_score[rate]["value"] * cases) if rate in by_score else 0


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(**{field.name: number(row[field.name]) for field in fields(Estimate) if field.name in row})


def _unscored_metrics(rankings: pd.DataFrame) -> Iterator[Unscored]:
    cases = rankings[(rankings["excluded"] == "") & (rankings["metric_excluded"] != "")]
    for reason, rows in cases.groupby("metric_excluded", sort=True):
        yield Unscored(str(reason), tuple(str(case) for case in rows["case_id"].drop_duplicates()))


def _results(files: ScoreFiles, methods: Sequence[str]) -> dict[str, tuple[MethodResult, ...]]:
    rankings = files.rankings
    suspects: dict[tuple[str, str], list[Suspect]] = {}
    ranked_rows = rankings.dropna(subset="rank")
    listed = ranked_rows.groupby(["case_id", "method"]).size().to_dict()
    correct = ranked_rows["correct"].fillna(value=False).astype(bool)
    kept = ranked_rows[(ranked_rows["rank"] <= SUSPECTS_KEPT) | correct]
    for row in kept.sort_values("rank", kind="stable").to_dict("records"):
        suspects.setdefault((row["case_id"], row["method"]), []).append(_suspect(row))
    metric_ranks = _metric_ranks(files.metric_rankings)
    findings, coverage = read_findings(files), read_coverage(files)
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
            metric_rank=metric_ranks.get((row["case_id"], row["method"])),
            findings=findings.get((row["case_id"], row["method"])),
            coverage=coverage.get((row["case_id"], row["method"])),
            listed=int(listed.get((row["case_id"], row["method"]), 0)),
        )
        results.setdefault(row["case_id"], []).append(result)
    position = _position(methods)
    return {case: tuple(sorted(found, key=lambda result: position(result.method))) for case, found in results.items()}


def _suspect(row: Mapping[Any, Any]) -> Suspect:
    return Suspect(
        rank=int(row["rank"]),
        service=row["service"],
        metric=None if pd.isna(row["metric"]) else str(row["metric"]),
        score=number(row["score"]),
        tied=bool(row["tied"]),
        truth=bool(row["correct"]),
    )


def _metric_ranks(table: pd.DataFrame | None) -> dict[tuple[str, str], int]:
    """Return (case, method) -> rank of the first correct metric."""
    if table is None:
        return {}
    correct = table[table["correct"]].sort_values("rank", ascending=False, kind="stable")
    return {(row["case_id"], row["method"]): int(row["rank"]) for row in correct.to_dict("records")}
