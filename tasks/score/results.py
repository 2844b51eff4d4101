"""The result of the score stage: its tables, a small JSON for ``dvc metrics``, and a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.injection import FAULT_FREE
from tasks.rca.run.sandbox import Level
from tasks.score.accuracy import SCORES
from tasks.score.files import METRICS_FILE, TABLES, TIMINGS_FILE, write_score_files
from tasks.score.references import REFERENCE_LABELS, REFERENCES
from tasks.score.set_tables import ALL
from tasks.score.tables import Scored
from tasks.score.truth import Truth
from tasks.text import two_decimals

TABLE_WIDTH = 120
_CASES_NAMED = 3
_ROOTS_NAMED = 20
_SET_COLUMNS = {
    "set_f1": "set F1",
    "service_f1": "services F1",
    "kind_accuracy": "kind accuracy",
    "order": "order",
}
_ALARM_COLUMNS = ("false alarms", "per h")
SIMULATED = "simulated: these cases were computed, no stack ran"
_POLICY = (
    "scores take each list as given: what it leaves out is not found; 'Avg@5 tail' puts that behind the list in random "
    "order; 'macro': mean over strata of difficulty; in brackets: orders drawn at random"
)


@dataclass(frozen=True)
class ScoreTable:
    """A table for people: a header, one row per method and per reference; ``notes`` say what was left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """Return the table and its notes as lines; columns that do not fit beside the others follow below them."""
        blocks = ["\n".join(self._lines(block)) for block in self._blocks()]
        return "\n".join(["\n\n".join(blocks), *self.notes])

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]

    def _blocks(self) -> list[list[int]]:
        """Return groups of columns that fit beside each other; each begins with the first column."""
        widths = self._widths()
        blocks = [[0]]
        for i in range(1, len(widths)):
            if len(blocks[-1]) > 1 and sum(widths[j] + 2 for j in blocks[-1]) + widths[i] > TABLE_WIDTH:
                blocks.append([0])
            blocks[-1].append(i)
        return blocks

    def _lines(self, block: Sequence[int]) -> list[str]:
        widths = self._widths()
        return ["  ".join(row[i].ljust(widths[i]) for i in block).rstrip() for row in (self.columns, *self.rows)]


@dataclass(frozen=True)
class ScoreResult:
    """What ``score_campaign`` wrote to ``out_dir``.

    ``parameters``: each method's parameters. ``costs``: each method's seconds and memory. ``kept``: how many rankings
    were kept from an earlier run. ``levels``: how the processes that ran methods were confined
    (:mod:`tasks.rca.run.sandbox`), strongest first. ``simulated``: the cases were computed.
    """

    out_dir: Path
    rankings: pd.DataFrame
    metric_rankings: pd.DataFrame
    scores: pd.DataFrame
    misattribution: pd.DataFrame
    comparisons: pd.DataFrame
    average_ranks: pd.DataFrame
    detections: pd.DataFrame
    findings: pd.DataFrame
    evidence: pd.DataFrame
    coverage: pd.DataFrame
    cases: pd.DataFrame
    sets: pd.DataFrame
    set_scores: pd.DataFrame
    kinds: pd.DataFrame
    negatives: pd.DataFrame
    parameters: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Mapping[str, float]]
    truths: tuple[Truth, ...]
    failures: int
    kept: int
    levels: tuple[Level, ...] = ()
    simulated: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is not in the scores, and why, and which methods are beyond the paper's, one line each."""
        beyond = self.rankings.loc[self.rankings["beyond"], "method"].drop_duplicates()
        lines = [SIMULATED] if self.simulated else []
        if len(beyond):
            lines.append(f"beyond the 24 of arXiv 2603.02057: {', '.join(beyond)}")
        lines += _left_out(self.truths)
        if incidents := [truth.case for truth in self.truths if truth.incident]:
            lines.append(f"labelled by people, confirmed by no probe: {_some(incidents)}")
        if not self.metric_rankings.empty:
            unscored = [truth for truth in self.truths if truth.metrics.excluded and not truth.excluded]
            for reason in sorted({truth.metrics.excluded for truth in unscored}):
                cases = [truth.case for truth in unscored if truth.metrics.excluded == reason]
                lines.append(f"not scored at metric level: {_some(cases)}: {reason}")
        return (*lines, *self._failures())

    def _failures(self) -> list[str]:
        """Return failures per method and reason. Reasons that differ only in their numbers count as one, shown by the
        first."""
        failed = self.rankings[self.rankings["status"] != "ok"]
        kind = failed["message"].str.replace(r"\d+(\.\d+)?", "#", regex=True)
        lines = []
        for (method, status, _), rows in failed.groupby(["method", "status", kind]):
            messages = rows["message"].drop_duplicates()
            alike = " (and the like)" if len(messages) > 1 else ""
            on = f"on {len(rows)} of {len(self.truths)} cases"
            lines.append(f"failed: {method} {on}: {status}: {messages.iloc[0]}{alike}")
        return lines

    def score_table(self) -> ScoreTable:
        """Return scores, failures and seconds per method, best first, and ``AC@1 / Avg@5`` per fault kind."""
        if self.scores.empty:
            return ScoreTable(("method",), (("(no case to score)",),), self.notes)
        cells = _Cells(self.scores)
        rows = {
            method: (
                method,
                *(_with_interval(cells.row(method, score)) for score in ("ac1", "avg5")),
                two_decimals(cells.row(method, "avg5").tail),
                *cells.macro(method, "value"),
                *cells.at_metric_level(method, "value"),
                str(round(cells.row(method, "failure_rate").value * cells.cases["all"])),
                f"{self.costs[method]['wall_s_mean']:.2f}",
                *(cells.pair(method, fault, "value") for fault in cells.faults),
            )
            for method in cells.methods
        }
        avg5 = {method: cells.row(method, "avg5").value for method in cells.methods}
        first = cells.methods[0]  # the references of all are the same
        for reference, label in REFERENCE_LABELS.items():
            name = f"({label})"
            expected = [getattr(cells.row(first, score), reference) for score in ("ac1", "avg5")]
            avg5[name] = expected[1]
            rows[name] = (
                name,
                *map(two_decimals, (*expected, expected[1])),
                *cells.macro(first, reference),
                *cells.at_metric_level(next(iter(cells.ranking_metrics), ""), reference),
                *("", ""),
                *(cells.pair(first, fault, reference) for fault in cells.faults),
            )
        columns = (
            *("method", f"AC@1 ({cells.cases['all']} cases)", "Avg@5", "Avg@5 tail"),
            *cells.macro_column,
            *(f"metric Avg@5 ({cells.metric_cases})" for _ in cells.ranking_metrics[:1]),
            *("failed", "s/case"),
            *(f"{fault} ({cells.cases[fault]})" for fault in cells.faults),
        )
        ordered = tuple(rows[name] for name in sorted(avg5, key=lambda n: -avg5[n]))
        return ScoreTable(columns, ordered, (_POLICY, *self.notes))

    def set_table(self) -> ScoreTable | None:
        """Return what the methods that say how many roots there are said, best set F1 first; None if none does."""
        scores = self.set_scores[self.set_scores["level"] == "overall"]
        saying = scores.loc[scores["score"] == "set_f1", ["method", "value"]]
        alarms = self.negatives[self.negatives["group"] == ALL].set_index("method")
        methods = [*saying.sort_values("value", ascending=False, kind="stable")["method"]]
        methods += [method for method in alarms.index if method not in methods]
        if not methods:
            return None
        cells = {(row.method, row.score): row for row in scores.itertuples(index=False)}
        rows = tuple(
            (
                str(method),
                *(_figure(cells.get((method, score))) for score in _SET_COLUMNS),
                *_alarms(alarms.loc[method] if method in alarms.index else None),
            )
            for method in methods
        )
        return ScoreTable(("says how many roots", *_SET_COLUMNS.values(), *_ALARM_COLUMNS), rows, ())

    def text(self) -> str:
        """Return the tables for people, below each other."""
        return "\n\n".join(table.text() for table in (self.score_table(), self.set_table()) if table is not None)


def _figure(row: Any) -> str:
    return "" if row is None else _with_interval(row)


def _alarms(row: Any) -> tuple[str, str]:
    if row is None:
        return ("", "")
    if not row["cases"]:
        return "0/0", ""
    return f"{row['alarmed']}/{row['cases']} [{row['low']:.2f}, {row['high']:.2f}]", f"{row['per_hour']:.1f}"


class _Cells:
    """Finds rows of the score table by method, level and score. ``ranking_metrics``: methods with scores at metric
    level."""

    def __init__(self, scores: pd.DataFrame) -> None:
        wanted = scores[scores["level"].isin(["overall", "fault"])]
        self._rows: dict[tuple[str, str, str, str], Any] = {
            (str(row.granularity), str(row.group), str(row.method), str(row.score)): row
            for row in wanted.itertuples(index=False)
        }
        first_place = scores[(scores["score"] == "ac1") & (scores["granularity"] == "service")]
        macro = first_place[first_place["level"] == "macro"]
        self._macro = {str(row.method): row for row in macro.itertuples(index=False)}
        self._strata = set(first_place.loc[first_place["level"] == "stratum", "group"])
        services, metrics = (wanted[wanted["granularity"] == granularity] for granularity in ("service", "metric"))
        self.methods: list[str] = services["method"].drop_duplicates().tolist()
        self.ranking_metrics: list[str] = metrics["method"].drop_duplicates().tolist()
        self.cases: dict[str, int] = dict(zip(services["group"].tolist(), services["cases"].tolist(), strict=True))
        self.metric_cases = int(metrics["cases"].max()) if len(metrics) else 0
        self.faults = [group for group in self.cases if group != "all"]

    def row(self, method: str, score: str, group: str = "all") -> Any:
        return self._rows["service", group, method, score]

    def pair(self, method: str, fault: str, figure: str) -> str:
        return " / ".join(two_decimals(getattr(self.row(method, score, fault), figure)) for score in ("ac1", "avg5"))

    @property
    def macro_column(self) -> tuple[str, ...]:
        return ("AC@1 macro",) if len(self._strata) > 1 else ()

    def macro(self, method: str, figure: str) -> tuple[str, ...]:
        """Return AC@1 as the mean over strata; no cell if there are less than two."""
        if not self.macro_column:
            return ()
        return (two_decimals(getattr(self._macro[method], figure)),)

    def at_metric_level(self, method: str, figure: str) -> tuple[str, ...]:
        """Return one cell if any method ranks metrics, else none."""
        if not self.ranking_metrics:
            return ()
        row = self._rows.get(("metric", "all", method, "avg5"))
        return (two_decimals(getattr(row, figure)) if row else "",)


def write_results(result: ScoreResult, pairs: Sequence[Scored]) -> None:
    """Write every file, then put all in place at once."""
    timings = {"method_costs": result.costs, "pairs": [_timing(pair) for pair in pairs]}
    tables = {table.name: getattr(result, table.name) for table in TABLES}
    write_score_files(result.out_dir, tables, {TIMINGS_FILE: timings, METRICS_FILE: _metrics(result)})


def method_costs(pairs: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Return seconds and memory (MiB) per method over the cases that it ran on: mean and maximum, 0 if on none."""
    costs: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(pair.method.name for pair in pairs):
        of_method = [pair.result for pair in pairs if pair.method.name == method]
        results = [result for result in of_method if result.status != "missing"]
        costs[method] = {"cases": len(results)}
        for name in ("wall_s", "cpu_s", "peak_mb", "grown_mb"):
            values = [getattr(result, name) for result in results] or [0.0]
            costs[method][f"{name}_mean"] = round(float(np.mean(values)), 6)
            costs[method][f"{name}_max"] = round(max(values), 6)
    return costs


def _metrics(result: ScoreResult) -> dict[str, Any]:
    """Return the content of ``metrics.json``: scores over all cases, failures, and scores per fault kind, by method."""
    document: dict[str, Any] = {
        "cases": {
            "scored": sum(not truth.excluded for truth in result.truths),
            "fault_free": sum(truth.excluded == FAULT_FREE for truth in result.truths),
            "ineffective": sum(truth.excluded not in ("", FAULT_FREE) for truth in result.truths),
            "scored_at_metric_level": sum(not truth.metrics.excluded for truth in result.truths),
            "classes": _counts(result.cases["class"]),
            "strata": _counts(result.cases.loc[result.cases["excluded"] == "", "stratum"]),
        },
        **{reference: {} for reference in REFERENCES},
        "methods": {},
    }
    if len(result.detections):
        document["detection"] = _detection(result.detections)
    wanted = result.scores[result.scores["score"].isin(SCORES) & result.scores["level"].isin(["overall", "fault"])]
    failed = result.rankings[result.rankings["status"] != "ok"].groupby("method").size()
    for method in result.rankings["method"].drop_duplicates():
        entry: dict[str, Any] = {"failures": int(failed.get(method, 0)), "by_fault": {}}
        for row in wanted[wanted["method"] == method].itertuples(index=False):
            place = entry if row.level == "overall" else entry["by_fault"].setdefault(row.group, {})
            if row.granularity == "metric":
                place = place.setdefault("metric_level", {})
            place[row.score] = row.value
            if row.level != "overall":
                continue
            place.setdefault("tail", {})[row.score] = row.tail
            for reference in REFERENCES:
                expected = document[reference]
                if row.granularity == "metric":
                    expected = expected.setdefault("metric_level", {})
                expected[row.score] = getattr(row, reference)
        entry |= _beyond_ranks(result, str(method))
        if result.parameters[method]:
            entry["parameters"] = dict(result.parameters[method])
        document["methods"][method] = entry
    return document


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values[values != ""].value_counts().sort_index().items()}


def _beyond_ranks(result: ScoreResult, method: str) -> dict[str, Any]:
    """Return the scores of one method by stratum, of its sets and on negatives, as far as it has any."""
    scores = result.scores[(result.scores["method"] == method) & (result.scores["granularity"] == "service")]
    strata: dict[str, dict[str, float]] = {}
    wanted = scores[scores["level"].isin(["macro", "stratum"]) & scores["score"].isin(SCORES)]
    for row in wanted.to_dict("records"):
        group = "macro" if row["level"] == "macro" else str(row["group"])
        strata.setdefault(group, {})[row["score"]] = row["value"]
    sets = result.set_scores[(result.set_scores["method"] == method) & (result.set_scores["level"] == "overall")]
    negatives = result.negatives[(result.negatives["method"] == method) & (result.negatives["group"] == ALL)]
    found: dict[str, Any] = {
        "strata": strata,
        "sets": dict(zip(sets["score"].tolist(), sets["value"].tolist(), strict=True)),
        "negatives": {
            name: value
            for row in negatives[["cases", "alarmed", "share", "false_roots", "per_hour"]].to_dict("records")
            for name, value in row.items()
            if not pd.isna(value)
        },
    }
    return {name: value for name, value in found.items() if value}


def _detection(detections: pd.DataFrame) -> dict[str, Any]:
    """Summarise how well the inject time was detected. A change seen in a fault-free case is a false alarm."""
    faulty = detections[detections["true_time"].notna()]
    errors = faulty["error_s"].dropna()
    return {
        "cases": len(faulty),
        "detected": int(faulty["detected"].sum()),
        "false_alarms": int(detections.loc[detections["true_time"].isna(), "detected"].sum()),
        "median_error_s": round(float(errors.median()), 6) if len(errors) else None,
        "median_absolute_error_s": round(float(errors.abs().median()), 6) if len(errors) else None,
    }


def _timing(pair: Scored) -> dict[str, Any]:
    return {
        "case_id": pair.truth.case,
        "method": pair.method.name,
        "wall_s": round(pair.result.wall_s, 6),
        "cpu_s": round(pair.result.cpu_s, 6),
        "peak_mb": round(pair.result.peak_mb, 1),
        "grown_mb": round(pair.result.grown_mb, 1),
        "traceback": pair.result.traceback,
    }


def _left_out(truths: Sequence[Truth]) -> list[str]:
    """Return which cases are not scored and which roots are not counted, and why; of thousands, how many."""
    cases: dict[str, list[str]] = {}
    for truth in truths:
        if truth.excluded:
            cases.setdefault(truth.excluded, []).append(truth.case)
    roots = [note for truth in truths for note in truth.notes]
    lines = [f"not scored: {_some(names)}: {reason}" for reason, names in cases.items()]
    lines += [f"not counted: {note}" for note in roots[:_ROOTS_NAMED]]
    if len(roots) > _ROOTS_NAMED:
        lines.append(f"not counted: {len(roots) - _ROOTS_NAMED} more; the case.json of each says why")
    return lines


def _some(cases: Sequence[str]) -> str:
    named = ", ".join(cases[:_CASES_NAMED])
    return named if len(cases) <= _CASES_NAMED else f"{len(cases)} cases ({named}, …)"


def _with_interval(row: Any) -> str:
    interval = "" if math.isnan(row.low) else f" [{two_decimals(row.low)}, {two_decimals(row.high)}]"
    return f"{two_decimals(row.value)}{interval}"
