"""Performance of the stack without faults, for sweeps over parallelism settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.table import Table

from tasks.case import Case, CaseError, read_cases
from tasks.console import table_console
from tasks.errors import RCArenaError
from tasks.html.formatting import quantity
from tasks.requests import observed

QUANTILES = (0.5, 0.9, 0.99)


class PerformanceError(RCArenaError):
    """The workspaces cannot be compared."""


@dataclass(frozen=True)
class Performance:
    """Performance in the fault-free cases of one workspace, in all phases after the warm-up.

    Latencies are in seconds, quantiles by ``p50`` …; ``requests_per_s`` and ``tokens_per_s`` count answered
    requests and their output tokens.
    """

    folder: str
    campaign: str
    parallelism: dict[str, int]
    cases: int
    requests: int
    failed: int
    requests_per_s: float
    tokens_per_s: float
    latency_s: dict[str, float]
    ttft_s: dict[str, float]


def read_performance(folder: Path) -> Performance:
    """Read the performance of the workspace ``folder``.

    Raises:
        PerformanceError: it has no fault-free case, or its cases have different stacks.
        CaseError: a case cannot be read.
    """
    cases = [case for case in read_cases(folder / "cases") if case.record.undisturbed]
    if not cases:
        raise PerformanceError(f"{folder}: no fault-free case (campaign.fault_free_cases makes some)")
    stacks = {tuple(sorted(case.record.stack.parallelism.items())) for case in cases}
    if len(stacks) > 1:
        raise PerformanceError(f"{folder}: fault-free cases of {len(stacks)} settings of parallelism")
    requests = pd.concat([_measured(case) for case in cases], ignore_index=True)
    requests = requests.join(observed(requests))
    answered = requests[~requests["failed"]]
    seconds = sum((case.record.phases[-1].end - case.record.phases[0].start).total_seconds() for case in cases)
    return Performance(
        folder=folder.name,
        campaign=cases[0].record.campaign,
        parallelism=dict(cases[0].record.stack.parallelism),
        cases=len(cases),
        requests=len(requests),
        failed=int(requests["failed"].sum()),
        requests_per_s=len(answered) / seconds,
        tokens_per_s=float(answered["tokens_out"].sum()) / seconds,
        latency_s=_quantiles(answered["latency_s"]),
        ttft_s=_quantiles(answered["ttft_s"]),
    )


def read_sweep(folders: Sequence[Path]) -> list[Performance]:
    """Read each folder; return them by the size of their stacks. Raises like ``read_performance``."""
    try:
        found = [read_performance(folder) for folder in folders]
    except CaseError as error:
        raise PerformanceError(str(error)) from error
    return sorted(found, key=lambda each: (*sorted(each.parallelism.items()), each.folder))


def show(sweep: Sequence[Performance]) -> None:
    """Print one line per workspace."""
    table_console().print(_table(sweep))


def _table(sweep: Sequence[Performance]) -> Table:
    table = Table(title="Performance without faults", title_justify="left")
    for column in ("campaign", "parallelism", "cases"):
        table.add_column(column)
    for column in ("requests/s", "tokens/s", "failed", *_names("latency"), *_names("TTFT")):
        table.add_column(column, justify="right")
    for each in sweep:
        table.add_row(
            each.campaign,
            " × ".join(f"{size} {name}" for name, size in each.parallelism.items()),
            str(each.cases),
            quantity(each.requests_per_s),
            quantity(each.tokens_per_s),
            f"{each.failed / each.requests:.1%}" if each.requests else "–",
            *(quantity(value, "s") for value in (*each.latency_s.values(), *each.ttft_s.values())),
        )
    return table


def _measured(case: Case) -> pd.DataFrame:
    phases = case.record.phases
    requests = case.table("requests")  # not kept with the case
    scheduled = requests["scheduled"]
    return requests[(scheduled >= phases[0].start) & (scheduled < phases[-1].end)]


def _quantiles(seconds: pd.Series) -> dict[str, float]:
    return {_name(each): float(seconds.quantile(each)) for each in QUANTILES}


def _names(what: str) -> list[str]:
    return [f"{what} {_name(each)}" for each in QUANTILES]


def _name(quantile: float) -> str:
    return f"p{quantile * 100:g}"
