"""The files of the score stage: their names and columns, and how they are written and read. Columns: docs/scores.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.score.errors import ScoreError
from tasks.score.references import REFERENCES

METRICS_FILE = "metrics.json"
TIMINGS_FILE = "timings.json"
_STAGING = ".partial"
_ROWS_AT_ONCE = 50_000
_COSTS = ("cases", "wall_s_mean", "wall_s_max", "peak_mb_mean", "peak_mb_max")
_LATER_COSTS = ("cpu_s_mean", "cpu_s_max")


@dataclass(frozen=True)
class Table:
    """A Parquet file. ``columns``: dtype by name; ``later``: those that an older score stage did not write.

    ``first``: every score stage has written the file; the others may be missing.
    """

    name: str
    columns: Mapping[str, str]
    later: frozenset[str] = frozenset()
    first: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.parquet"

    def of(self, rows: Iterable[Sequence[object]]) -> pd.DataFrame:
        """Return ``rows`` (values in the order of ``columns``) as a table with the dtypes of the file.

        Takes them in parts: as Python objects, the rows of 10,000 cases need ten times the memory of the table.
        """
        source = iter(rows)
        parts = [self._part(list(islice(source, _ROWS_AT_ONCE)))]
        while part := list(islice(source, _ROWS_AT_ONCE)):
            parts.append(self._part(part))
        return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)

    def _part(self, rows: Sequence[Sequence[object]]) -> pd.DataFrame:
        return pd.DataFrame(rows, columns=list(self.columns)).astype(dict(self.columns))

    def read(self, scores_dir: Path) -> pd.DataFrame | None:
        """Return the table; None if it is missing and may be. Raises ScoreError."""
        file = scores_dir / self.file
        if not self.first and not file.exists():
            return None
        try:
            table = pd.read_parquet(file)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.file, error) from error
        missing = [name for name in self.columns if name not in table.columns and name not in self.later]
        if missing:
            raise ScoreError(f"{self.file}: has no column {', '.join(missing)}; run the score stage again")
        return table


def _unreadable(file: str, error: Exception) -> ScoreError:
    return ScoreError(f"{file}: cannot be read ({error}); run the score stage again")


RANKING_TABLE = Table(
    "rankings",
    {
        "case_id": "str",
        "fault": "str",
        "target": "str",
        "truth": "str",
        "excluded": "str",
        "metric_excluded": "str",
        "method": "str",
        "family": "str",
        "reference": "bool",
        "beyond": "bool",
        "status": "str",
        "message": "str",
        "rank": "Int32",
        "service": "str",
        "metric": "str",
        "score": "float64",
        "tied": "boolean",
        "correct": "boolean",
    },
    later=frozenset({"metric_excluded", "reference", "beyond"}),
    first=True,
)
METRIC_RANKING_TABLE = Table(
    "metric_rankings",
    {
        "case_id": "str",
        "method": "str",
        "rank": "int32",
        "service": "str",
        "metric": "str",
        "score": "float64",
        "tied": "bool",
        "correct": "bool",
    },
)
_LATER_SCORES = ("tail", "tail_low", "tail_high", *REFERENCES[1:], "wilson_low", "wilson_high")
SCORE_TABLE = Table(
    "scores",
    {
        "level": "str",
        "group": "str",
        "granularity": "str",
        "method": "str",
        "score": "str",
        **dict.fromkeys(("value", "low", "high", "chance", "lift"), "float64"),
        "cases": "int64",
        **dict.fromkeys(_LATER_SCORES, "float64"),
    },
    later=frozenset({"granularity", *_LATER_SCORES}),
    first=True,
)
MISATTRIBUTION_TABLE = Table(
    "misattribution",
    {"method": "str", "fault": "str", "truth": "str", "predicted": "str", "error": "str", "cases": "int64"},
    later=frozenset({"error"}),
    first=True,
)
_LATER_P = ("mcnemar_p", "mcnemar_p_holm")
COMPARISON_TABLE = Table(
    "comparisons",
    {
        "score": "str",
        "method_a": "str",
        "method_b": "str",
        "cases": "int64",
        "difference": "float64",
        **dict.fromkeys(("wins", "ties", "losses"), "int64"),
        "p": "float64",
        "p_holm": "float64",
        "significant": "bool",
        **dict.fromkeys(_LATER_P, "float64"),
    },
    later=frozenset(_LATER_P),
)
AVERAGE_RANK_TABLE = Table(
    "average_ranks",
    {
        "score": "str",
        "method": "str",
        "average_rank": "float64",
        "cases": "int64",
        "friedman_p": "float64",
        "cliques": "str",
    },
)
DETECTION_TABLE = Table(
    "detections",
    {
        "case_id": "str",
        "fault": "str",
        "true_time": "datetime64[ns, UTC]",
        "detected_time": "datetime64[ns, UTC]",
        "error_s": "float64",
        "detected": "bool",
    },
)
FINDING_TABLE = Table(
    "findings",
    {
        "case_id": "str",
        "method": "str",
        "finding": "Int32",
        "role": "str",
        "service": "str",
        "kind": "str",
        "significance": "float64",
        "onset_s": "float64",
    },
)
EVIDENCE_TABLE = Table(
    "evidence",
    {
        "case_id": "str",
        "method": "str",
        "finding": "int32",
        "signal": "str",
        "sentence": "str",
        "unit": "str",
        **dict.fromkeys(("before", "during", "siblings"), "float64"),
    },
)
COVERAGE_TABLE = Table("coverage", {**dict.fromkeys(("case_id", "method", "evidence"), "str"), "seen": "bool"})
_COUNTS = ("requests_before", "requests_during", "failed_before", "failed_during", "slow_before", "slow_during")
CASE_TABLE = Table(
    "cases",
    {
        **dict.fromkeys(("case_id", "scenario", "fault", "target", "truth", "excluded"), "str"),
        **dict.fromkeys(("victims", "disturbances"), "str"),
        **dict.fromkeys(("class", "reason", "stratum"), "str"),
        **{"root": "str", "root_strength": "float64", "root_metric": "str"},
        **{"other": "str", "other_strength": "float64", "other_metric": "str"},
        **dict.fromkeys(_COUNTS, "Int64"),
        **dict.fromkeys(("p_failed", "p_slow"), "float64"),
    },
)
_SET_COUNTS = ("truths", "answers", "hits", "wrong_kinds", "unknown_kinds")
_SERVICE_COUNTS = ("services_true", "services_named", "services_hit")
SET_TABLE = Table(
    "sets",
    {
        **dict.fromkeys(("case_id", "method"), "str"),
        **dict.fromkeys((*_SET_COUNTS, *_SERVICE_COUNTS), "Int64"),
        **dict.fromkeys(("victim_pairs", "victims_right", "root_pairs", "roots_right"), "Int64"),
    },
)
SET_SCORE_TABLE = Table(
    "set_scores",
    {
        **dict.fromkeys(("level", "group", "method", "score"), "str"),
        **dict.fromkeys(("value", "low", "high"), "float64"),
        **{"n": "int64", "unit": "str"},
    },
)
KIND_TABLE = Table("kinds", {"method": "str", "kind": "str", "named": "str", "count": "int64"})
NEGATIVE_TABLE = Table(
    "negatives",
    {
        **dict.fromkeys(("method", "group"), "str"),
        **dict.fromkeys(("cases", "silent", "alarmed"), "int64"),
        **dict.fromkeys(("share", "low", "high"), "float64"),
        **dict.fromkeys(("false_roots", "disturbances"), "int64"),
        **dict.fromkeys(("per_case", "hours", "per_hour", "per_hour_low", "per_hour_high"), "float64"),
    },
)
TABLES = (
    RANKING_TABLE,
    METRIC_RANKING_TABLE,
    SCORE_TABLE,
    MISATTRIBUTION_TABLE,
    COMPARISON_TABLE,
    AVERAGE_RANK_TABLE,
    DETECTION_TABLE,
    FINDING_TABLE,
    EVIDENCE_TABLE,
    COVERAGE_TABLE,
    CASE_TABLE,
    SET_TABLE,
    SET_SCORE_TABLE,
    KIND_TABLE,
    NEGATIVE_TABLE,
)


@dataclass(frozen=True)
class ScoreFiles:
    """The tables as written, by their names. None: missing, because an older score stage wrote the others.

    ``costs``: one row per method (index).
    """

    rankings: pd.DataFrame
    scores: pd.DataFrame
    misattribution: pd.DataFrame
    metric_rankings: pd.DataFrame | None
    comparisons: pd.DataFrame | None
    average_ranks: pd.DataFrame | None
    detections: pd.DataFrame | None
    findings: pd.DataFrame | None
    evidence: pd.DataFrame | None
    coverage: pd.DataFrame | None
    cases: pd.DataFrame | None
    sets: pd.DataFrame | None
    set_scores: pd.DataFrame | None
    kinds: pd.DataFrame | None
    negatives: pd.DataFrame | None
    costs: pd.DataFrame | None

    @property
    def overall(self) -> pd.DataFrame:
        """The rows of ``scores`` over all cases, by service."""
        return self.scores[(self.scores["level"] == "overall") & (self.scores["granularity"] == "service")]


def write_score_files(out_dir: Path, tables: Mapping[str, pd.DataFrame], documents: Mapping[str, Any]) -> None:
    """Write ``tables`` (by name) and ``documents`` (JSON, by file name), then put all in place at once."""
    staging = out_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for table in TABLES:
        tables[table.name].to_parquet(staging / table.file, index=False)
    for name, document in documents.items():
        (staging / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name in (*(table.file for table in TABLES), *documents):
        (staging / name).replace(out_dir / name)
    staging.rmdir()


def read_score_files(scores_dir: Path) -> ScoreFiles | None:
    """Return None when the score stage has not run.

    Raises:
        ScoreError: a file is missing that every score stage writes, or is not what it writes.
    """
    if not (scores_dir / RANKING_TABLE.file).exists() and not (scores_dir / SCORE_TABLE.file).exists():
        return None
    tables: dict[str, Any] = {table.name: table.read(scores_dir) for table in TABLES}
    rankings, scores = tables["rankings"], tables["scores"]
    if "metric_excluded" not in rankings:
        tables["rankings"] = rankings = rankings.assign(metric_excluded="")
    if "reference" not in rankings:
        tables["rankings"] = rankings = rankings.assign(reference=rankings["method"] == "random")
    if "beyond" not in rankings:
        tables["rankings"] = rankings.assign(beyond=False)
    if "error" not in tables["misattribution"]:
        tables["misattribution"] = tables["misattribution"].assign(error="")
    if "granularity" not in scores:
        tables["scores"] = scores.assign(granularity="service")
    return ScoreFiles(**tables, costs=_costs(scores_dir / TIMINGS_FILE))


def number(value: Any) -> float | None:
    """A cell as a number; None where there is none."""
    return None if pd.isna(value) else float(value)


def _costs(file: Path) -> pd.DataFrame | None:
    if not file.exists():
        return None
    try:
        costs = json.loads(file.read_text(encoding="utf-8")).get("method_costs")
        if costs is None:
            return None
        table = pd.DataFrame.from_dict(costs, orient="index").astype(float)
        return table[[*_COSTS, *(name for name in _LATER_COSTS if name in table)]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file.name, error) from error
