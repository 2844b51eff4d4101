"""What a method may see of a case: its telemetry, without the answer.

A view holds no ground truth, no case id and no path, and its services and columns come in an order that depends on
their content only. So a method cannot profit from a name, from the order of a file or from the position of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tasks.rca.context import Context
from tasks.rca.features.rows import ticks_of

if TYPE_CHECKING:
    from tasks.stack import Role

SLI_QUANTILE = 0.9
METRIC_NEED = "metrics:"
"""Begin of a need that names a metric."""


SliKind = Literal["requests", "spans", "metric", "below", "none"]


@dataclass(frozen=True)
class SliSource:
    """The data that an SLI was computed from: the load's requests, the spans of the front end, a metric of the front
    end, a metric of the nearest services below it that have one, or nothing. ``services``: the owners of the spans or
    metric."""

    kind: SliKind
    metric: str | None = None
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sli:
    """``values`` has a value for each row of the metrics (each second if there are none), NaN where nothing was
    measured."""

    values: pd.Series
    source: SliSource


NO_SLI = Sli(pd.Series(dtype=float, name="sli"), SliSource("none"))


@dataclass(frozen=True)
class CaseView:
    """Telemetry of one case, cut to the visible window.

    ``services``: the candidates, in an order that carries no information. ``front_end``: the service whose latency
    users see. ``metrics``: one row per sampling step (UTC), one column per (service, metric); NaN: no sample. ``sli``:
    latency in seconds that users saw, on the rows of ``metrics``; ``sli_source``: what it was made of. ``logs``,
    ``spans``, ``requests``, ``topology``: the tables of the case contract. ``inject_time``: when the first fault began,
    known or estimated.

    ``ttft``: time to first token in seconds, ``error_rate``: share of the requests that failed, both as ``sli``.

    ``step_s``: the sampling step of the metrics, None if no metric has two samples. A hole in the recording has no
    rows: ``ticks`` says which rows are adjacent, and a method that looks back must not look across a hole.

    ``context``: units and sources of the metrics, the stack, its limits and hosts, the load, what was recorded.
    """

    services: tuple[str, ...]
    roles: Mapping[str, Role]
    front_end: str
    inject_time: pd.Timestamp
    metrics: pd.DataFrame
    sli: pd.Series
    logs: pd.DataFrame
    spans: pd.DataFrame
    requests: pd.DataFrame
    topology: pd.DataFrame
    content_key: str
    sli_source: SliSource = NO_SLI.source
    ttft: pd.Series = field(default_factory=NO_SLI.values.copy)
    ttft_source: SliSource = NO_SLI.source
    error_rate: pd.Series = field(default_factory=NO_SLI.values.copy)
    error_rate_source: SliSource = NO_SLI.source
    step_s: float | None = None
    context: Context = field(default_factory=Context)

    @property
    def step_ns(self) -> int | None:
        return None if self.step_s is None else round(self.step_s * 1e9)

    def ticks(self) -> np.ndarray:
        """Return the number of the sampling step of each row of ``metrics``, shape (rows,): the next row is 1 later,
        more after a hole.

        :func:`tasks.rca.features.rows.with_past` gives the rows that have so many steps before them without a hole.
        """
        return ticks_of(self.metrics.index, self.step_ns)

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the metrics before ``inject_time`` (normal) and from it on (abnormal). Either may have no row."""
        after = self.metrics.index >= self.inject_time
        return self.metrics.loc[~after], self.metrics.loc[after]

    def missing(self, needs: frozenset[str]) -> list[str]:
        """Return those of a method's ``needs`` that hold no sample: fields of the view, or ``metrics:NAME`` for a
        metric that some service must have."""
        metrics = set(self.metrics.columns.get_level_values(1))
        return sorted(
            name
            for name in needs
            if (
                name.removeprefix(METRIC_NEED) not in metrics
                if name.startswith(METRIC_NEED)
                else not _has_samples(getattr(self, name))
            )
        )


def _has_samples(signal: pd.DataFrame | pd.Series) -> bool:
    return bool(signal.notna().any()) if isinstance(signal, pd.Series) else not signal.empty


def column_names(metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (service, metric) of each column."""
    services, names = metrics.columns.get_level_values(0), metrics.columns.get_level_values(1)
    return list(zip(services.astype(str), names.astype(str), strict=True))
