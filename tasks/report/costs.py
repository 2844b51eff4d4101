"""What the methods cost, and where and why they failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class MethodCost:
    """Of one method over the ``cases`` that it was run on. Memory: MiB of the whole process."""

    cases: int
    seconds_mean: float
    seconds_max: float
    peak_mb_mean: float
    peak_mb_max: float


@dataclass(frozen=True)
class Failures:
    """Cases in which one method failed for one reason."""

    method: str
    status: str
    message: str
    cases: tuple[str, ...]


def method_costs(table: pd.DataFrame | None, methods: Mapping[str, object]) -> Mapping[str, MethodCost] | None:
    """By method; None when nothing was measured."""
    if table is None:
        return None
    return {
        str(method): MethodCost(
            int(row["cases"]), row["wall_s_mean"], row["wall_s_max"], row["peak_mb_mean"], row["peak_mb_max"]
        )
        for method, row in table.iterrows()
        if method in methods
    }


def failures(rankings: pd.DataFrame, methods: Sequence[str]) -> tuple[Failures, ...]:
    """By ``methods``, the most frequent reason first."""
    failed = rankings[rankings["status"] != "ok"].drop_duplicates(["case_id", "method"])
    found = [
        Failures(str(method), str(status), str(message), tuple(rows["case_id"].astype(str)))
        for (method, status, message), rows in failed.groupby(["method", "status", "message"], sort=True)
    ]
    return tuple(sorted(found, key=lambda entry: (methods.index(entry.method), -len(entry.cases))))
