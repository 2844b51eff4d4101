"""What users saw, per step: latency, time to first token, share of failed requests, from the best source there is.

Each is taken from the first of these that has samples on both sides of the inject time, else from the first that has
any: the load's ``requests``; the ``spans`` of the front end (calls into it from elsewhere); a latency ``metric`` of the
front end; the latency metrics of the services nearest ``below`` it in the call graph, of all services if nobody
recorded what it calls (their mean, a service that falls silent counting as it last was).
:class:`tasks.rca.view.SliSource` says which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.case import CALLS
from tasks.rca.features.golden_signals import golden_signal
from tasks.rca.features.rows import quantile_per_cell, row_of, row_times
from tasks.rca.features.spans import ERROR_STATUS
from tasks.rca.view import SLI_QUANTILE, Sli, SliSource, column_names
from tasks.requests import outcomes
from tasks.spans import link_spans, service_calls, span_ends

_Rank = Callable[[str], tuple[int, str] | None]

LATENCY_METRICS = tuple(
    metric.name
    for metric in (
        metrics.LATENCY_P90,
        metrics.LATENCY_P95,
        metrics.LATENCY_P99,
        metrics.LATENCY_P50,
        metrics.LATENCY_MEAN,
        metrics.E2E_LATENCY_MEAN,
    )
)
"""Those that count first, in this order; then any other latency metric of a whole request, by name."""
SUCCESS_METRICS = (metrics.SUCCESS_RATIO.name, metrics.AVAILABILITY.name)
_PART_OF_A_REQUEST = ("ttft", "inter_token", "queue_time", "prefill", "decode", "client_")


@dataclass(frozen=True)
class Slis:
    """``latency`` and ``ttft``: 90th percentile, s; ``error_rate``: share of the requests that ended in the step."""

    latency: Sli
    ttft: Sli
    error_rate: Sli


@dataclass(frozen=True)
class Telemetry:
    """The tables of the case contract that an SLI may be made of; ``metrics`` has a row per step.

    ``timeout_s``: after which a request is given up, None if not known. ``boundary``: the inject time, None while it is
    being detected. ``step_ns``: the step of the metrics, None if not known.
    """

    requests: pd.DataFrame
    spans: pd.DataFrame
    metrics: pd.DataFrame
    topology: pd.DataFrame
    front_end: str
    timeout_s: float | None = None
    boundary: pd.Timestamp | None = None
    step_ns: int | None = None

    def slis(self) -> Slis:
        """Return the SLIs.

        A request counts in the step in which it ended, so one that the fault slowed down never counts before the fault;
        one still open after the last row counts in that. A failed one counts as :func:`tasks.requests.outcomes` says.
        """
        return Slis(
            latency=self._best(self._latencies()),
            ttft=self._best(self._ttfts()),
            error_rate=self._best(self._error_rates()),
        )

    def latency(self) -> Sli:
        """Return the latency alone."""
        return self._best(self._latencies())

    def _best(self, choices: Iterator[Sli]) -> Sli:
        some: Sli | None = None
        for choice in choices:
            sampled = choice.values.index[choice.values.notna()]
            if not len(sampled):
                continue
            if self.boundary is None or sampled[0] < self.boundary <= sampled[-1]:
                return choice
            some = some or choice
        return some or Sli(pd.Series(np.nan, index=self._index, name="sli"), SliSource("none"))

    def _latencies(self) -> Iterator[Sli]:
        for events in self._events():
            yield self._quantiles(events, events.ended, events.latency_s)
        yield from self._of_metrics(latency_rank)

    def _ttfts(self) -> Iterator[Sli]:
        if self._requests is not None:
            yield self._quantiles(self._requests, self._requests.first, self._requests.ttft_s)
        yield from self._of_metrics(_ttft_rank)

    def _error_rates(self) -> Iterator[Sli]:
        for events in self._events():
            if events.failed is not None:
                row = self._rows(events, events.ended)
                inside = row >= 0
                ended = np.bincount(row[inside], minlength=len(self._index))
                failed = np.bincount(row[inside], events.failed[inside], minlength=len(self._index))
                rate = np.divide(failed, ended, out=np.full(len(ended), np.nan), where=ended > 0)
                yield Sli(pd.Series(rate, index=self._index, name="sli"), events.source)
        for found in self._metric_of({self.front_end}, _success_rank, "metric"):
            yield Sli((1.0 - found.values).clip(lower=0.0), found.source)

    def _events(self) -> Iterator[_Events]:
        if self._requests is not None:
            yield self._requests
        if self._entries is not None:
            yield self._entries

    @cached_property
    def _requests(self) -> _Events | None:
        if self.requests.empty:
            return None
        result = outcomes(self.requests, self.timeout_s, self.boundary)
        ended, first = row_times(result["ended"]), row_times(self.requests["first_token"])
        return _Events(
            source=SliSource("requests"),
            begun=row_times(self.requests["scheduled"]),
            ended=ended,
            latency_s=result["latency_s"].to_numpy(),
            first=np.where(self.requests["first_token"].isna(), ended, first),
            ttft_s=result["ttft_s"].to_numpy(),
            failed=result["failed"].to_numpy(),
        )

    @cached_property
    def _entries(self) -> _Events | None:
        """Return the calls into the front end: its spans whose parent is another service's or was not recorded."""
        duration = self.spans["duration"]
        own = self.spans[
            ((self.spans["service"] == self.front_end) & np.isfinite(duration) & (duration >= 0)).to_numpy()
        ]
        if own.empty:
            return None
        entries = own[link_spans(own, own["duration"].to_numpy(dtype=float)).parent < 0]
        begun, seconds = row_times(entries["start"]), entries["duration"].to_numpy(dtype=float)
        status = entries["status_code"]
        failed = (status >= ERROR_STATUS).fillna(False).to_numpy(dtype=bool)
        worst = seconds[~failed].max(initial=0.0)
        ended = span_ends(entries)
        return _Events(
            source=SliSource("spans", services=(self.front_end,)),
            begun=begun,
            ended=ended,
            latency_s=np.where(failed, np.maximum(seconds, worst), seconds),
            first=ended,
            ttft_s=np.full(len(begun), np.nan),
            failed=failed if status.notna().any() else None,
        )

    @cached_property
    def _index(self) -> pd.DatetimeIndex:
        """Return the rows of the metrics; without metrics, every second of the requests or spans."""
        if len(self.metrics):
            return pd.DatetimeIndex(self.metrics.index)
        events = self._requests or self._entries
        second = 1_000_000_000
        times = np.array([], dtype=np.int64) if events is None else np.unique(-(-events.ended // second)) * second
        return pd.DatetimeIndex(times, tz="UTC", name="time").as_unit("ns")

    def _rows(self, events: _Events, times: np.ndarray) -> np.ndarray:
        """Return the row of each event; what is still open after the last row counts in that."""
        index = self._index
        if not len(index):
            return np.full(len(times), -1)
        step_ns = self.step_ns if len(self.metrics) else 1_000_000_000
        row = row_of(index, times, step_ns)
        last = row_times(index)[-1]
        still_open = (events.begun <= last) & (times > last)
        if self.boundary is not None and last < self.boundary.value:
            still_open &= times < self.boundary.value
        return np.where(still_open, len(index) - 1, row)

    def _quantiles(self, events: _Events, times: np.ndarray, seconds: np.ndarray) -> Sli:
        known = ~np.isnan(seconds)
        row = np.where(known, self._rows(events, times), -1)
        table = quantile_per_cell(row, np.zeros_like(row), seconds, (len(self._index), 1), SLI_QUANTILE)
        return Sli(pd.Series(table[:, 0], index=self._index, name="sli"), events.source)

    def _of_metrics(self, rank: _Rank) -> Iterator[Sli]:
        """Return latency metrics of the front end, then of the nearest services below it that have one."""
        yield from self._metric_of({self.front_end}, rank, "metric")
        for level in self._levels_below():
            yield from self._metric_of(level, rank, "below")

    def _metric_of(self, services: set[str], rank: _Rank, kind: Literal["metric", "below"]) -> Iterator[Sli]:
        """Return each ranked metric that any of the services has, the best first, as the mean over those services."""
        columns: dict[str, list[int]] = {}
        for i, (service, metric) in enumerate(column_names(self.metrics)):
            if service in services:
                columns.setdefault(metric, []).append(i)
        ranked = sorted((place, metric) for metric in columns if (place := rank(metric)) is not None)
        for _, metric in ranked:
            table = self.metrics.iloc[:, columns[metric]]
            values = table.iloc[:, 0] if len(columns[metric]) == 1 else table.ffill().mean(axis=1)
            owners = tuple(service for service, _ in column_names(table))
            yield Sli(values.rename("sli"), SliSource(kind, metric=metric, services=owners))

    def _levels_below(self) -> Iterator[set[str]]:
        """Return the services one call below the front end, then two, and so on; all others at once if its calls were
        not recorded."""
        declared = self.topology[(self.topology["relation"] == CALLS).to_numpy()]
        calls = set(zip(declared["source"].astype(str), declared["target"].astype(str), strict=True))
        calls |= set(service_calls(self.spans))
        if not any(caller == self.front_end != callee for caller, callee in calls):
            yield {service for service, _ in column_names(self.metrics)} - {self.front_end}
            return
        seen, level = {self.front_end}, {self.front_end}
        while level := {callee for caller, callee in calls if caller in level} - seen:
            seen |= level
            yield level


@dataclass(frozen=True)
class _Events:
    """Requests or calls, all fields (events,). ``begun``, ``ended`` and ``first`` token in ns, the latency and TTFT
    that count in s, and which failed (None if that was not recorded)."""

    source: SliSource
    begun: np.ndarray
    ended: np.ndarray
    latency_s: np.ndarray
    first: np.ndarray
    ttft_s: np.ndarray
    failed: np.ndarray | None


def latency_rank(metric: str) -> tuple[int, str] | None:
    """Return a metric's place among those that may stand for the latency users see; None if it is none of those."""
    if metric in LATENCY_METRICS:
        return LATENCY_METRICS.index(metric), metric
    partial = any(part in metric for part in _PART_OF_A_REQUEST)
    return None if partial or golden_signal(metric) != "latency" else (len(LATENCY_METRICS), metric)


def _ttft_rank(metric: str) -> tuple[int, str] | None:
    return (0, metric) if "ttft" in metric else None


def _success_rank(metric: str) -> tuple[int, str] | None:
    return (SUCCESS_METRICS.index(metric), metric) if metric in SUCCESS_METRICS else None
