"""What a method may see of a case: its telemetry, without the answer.

A view holds no ground truth, no case id and no path, and its services and columns come in an order that depends on
their content only. So a method cannot profit from a name, from the order of a file or from the position of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from tasks.stack import Role

SLI_QUANTILE = 0.9


@dataclass(frozen=True)
class CaseView:
    """Telemetry of one case, cut to the visible window.

    ``services``: the candidates, in an order that carries no information. ``front_end``: the service whose latency
    users see. ``metrics``: one row per sampling step (UTC), one column per (service, metric); NaN: no sample. ``sli``:
    latency in seconds that users saw, on the rows of ``metrics``. ``logs``, ``spans``, ``requests``, ``topology``: the
    tables of the case contract. ``inject_time``: when the first fault began, known or estimated.
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

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Metrics before ``inject_time`` (normal) and from it on (abnormal). Either may have no row."""
        after = self.metrics.index >= self.inject_time
        return self.metrics.loc[~after], self.metrics.loc[after]

    def missing(self, signals: frozenset[str]) -> list[str]:
        """Those of ``signals`` (fields of the view) that hold no sample."""
        return sorted(name for name in signals if not _has_samples(getattr(self, name)))


def _has_samples(signal: pd.DataFrame | pd.Series) -> bool:
    return bool(signal.notna().any()) if isinstance(signal, pd.Series) else not signal.empty


def column_names(metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """(service, metric) of each column."""
    services, names = metrics.columns.get_level_values(0), metrics.columns.get_level_values(1)
    return list(zip(services.astype(str), names.astype(str), strict=True))
