"""Reads what the score stage wrote. Columns: docs/scores.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.errors import RCArenaError
from tasks.score.results import (
    AVERAGE_RANKS_FILE,
    COMPARISONS_FILE,
    DETECTIONS_FILE,
    METRIC_RANKINGS_FILE,
    MISATTRIBUTION_FILE,
    RANKINGS_FILE,
    SCORES_FILE,
    TIMINGS_FILE,
)

_RANKINGS = (
    *("case_id", "fault", "target", "excluded", "method", "family", "status", "message"),
    *("rank", "service", "metric", "score", "tied", "correct"),
)
_METRIC_RANKINGS = ("case_id", "method", "rank", "correct")
_SCORES = ("level", "group", "method", "score", "value", "low", "high", "chance", "lift", "cases")
_MISATTRIBUTION = ("method", "fault", "truth", "predicted", "cases")
_COMPARISONS = (
    *("score", "method_a", "method_b", "difference", "wins", "ties", "losses"),
    *("p", "p_holm", "significant"),
)
_AVERAGE_RANKS = ("score", "method", "average_rank", "cases", "friedman_p", "cliques")
_DETECTIONS = ("case_id", "fault", "true_time", "detected_time", "error_s", "detected")
_COSTS = ("cases", "wall_s_mean", "wall_s_max", "peak_mb_mean", "peak_mb_max")
_LATER_COSTS = ("cpu_s_mean", "cpu_s_max")


class ScoresError(RCArenaError):
    """A result file of the score stage that cannot be used."""


@dataclass(frozen=True)
class ScoreFiles:
    """The tables as written. None: not there, because an older score stage wrote the others.

    ``costs``: one row per method (index).
    """

    rankings: pd.DataFrame
    scores: pd.DataFrame
    misattribution: pd.DataFrame
    metric_rankings: pd.DataFrame | None
    comparisons: pd.DataFrame | None
    average_ranks: pd.DataFrame | None
    detections: pd.DataFrame | None
    costs: pd.DataFrame | None


def read_score_files(scores_dir: Path) -> ScoreFiles | None:
    """None when the score stage has not run.

    Raises:
        ScoresError: a file is missing that every score stage writes, or is not what it writes.
    """
    if not (scores_dir / RANKINGS_FILE).exists() and not (scores_dir / SCORES_FILE).exists():
        return None
    rankings = _table(scores_dir / RANKINGS_FILE, _RANKINGS)
    scores = _table(scores_dir / SCORES_FILE, _SCORES)
    if "metric_excluded" not in rankings:
        rankings = rankings.assign(metric_excluded="")
    if "reference" not in rankings:
        rankings = rankings.assign(reference=rankings["method"] == "random")
    if "granularity" not in scores:
        scores = scores.assign(granularity="service")
    return ScoreFiles(
        rankings=rankings,
        scores=scores,
        misattribution=_table(scores_dir / MISATTRIBUTION_FILE, _MISATTRIBUTION),
        metric_rankings=_later_table(scores_dir / METRIC_RANKINGS_FILE, _METRIC_RANKINGS),
        comparisons=_later_table(scores_dir / COMPARISONS_FILE, _COMPARISONS),
        average_ranks=_later_table(scores_dir / AVERAGE_RANKS_FILE, _AVERAGE_RANKS),
        detections=_later_table(scores_dir / DETECTIONS_FILE, _DETECTIONS),
        costs=_costs(scores_dir / TIMINGS_FILE),
    )


def number(value: Any) -> float | None:
    """A cell as a number; None where there is none."""
    return None if pd.isna(value) else float(value)


def _later_table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    return _table(file, columns) if file.exists() else None


def _table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file)
    except (OSError, pa.ArrowException) as error:
        raise ScoresError(f"{file.name}: cannot be read ({error}); run the score stage again") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ScoresError(f"{file.name}: has no column {', '.join(missing)}; run the score stage again")
    return table


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
        raise ScoresError(f"{file.name}: cannot be read ({error}); run the score stage again") from error
