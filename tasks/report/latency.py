"""Front-end latency and failures before, during and after the fault."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.case import Case, CaseRecord
from tasks.requests import observed

PHASES = ("baseline", "fault", "recovery")
MAX_REQUESTS = 1500
MAX_ERROR_CHARACTERS = 120
MAX_BINS = 60
REQUESTS_PER_BIN = 10
MIN_BIN_S = 1e-3
OTHER_SERVICES = "others"


@dataclass(frozen=True)
class PhaseLatency:
    """Front-end latency (scheduled time to last token, s) of the requests scheduled in one phase.

    The quantiles are over answered requests, by linear interpolation; None where no request was answered.
    """

    answered: int
    failed: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True)
class RequestSummary:
    """All requests of a case; ``phases`` has the keys of ``PHASES`` that the case has."""

    total: int
    failed: int
    phases: Mapping[str, PhaseLatency]

    def quantile(self, phase: str, name: Literal["p50", "p95"]) -> float | None:
        """Return a quantile (s); None without the phase or without answered requests."""
        found = self.phases.get(phase)
        return getattr(found, name) if found else None


def summarise_requests(case: Case) -> RequestSummary | None:
    """Summarise the requests of a case; None when it has none (its ``completeness`` says why)."""
    requests = case.requests
    if requests.empty:
        return None
    seen = observed(requests)
    failed, latency_s = seen["failed"].to_numpy(bool), seen["latency_s"].to_numpy(float)
    scheduled = requests["scheduled"]
    phases: dict[str, PhaseLatency] = {}
    for phase in case.record.phases:
        inside = ((scheduled >= phase.start) & (scheduled < phase.end)).to_numpy(bool)
        answered = latency_s[inside & ~failed]
        p50, p95 = map(float, np.quantile(answered, [0.5, 0.95])) if answered.size else (None, None)
        phases[phase.name] = PhaseLatency(answered.size, int(failed[inside].sum()), p50, p95)
    return RequestSummary(total=len(requests), failed=int(failed.sum()), phases=phases)


def serving_replica(case: Case) -> pd.Series:
    """Return the replica that handled each trace, indexed by trace id; empty without such spans."""
    replicas = {service.name for service in case.record.stack.services if service.role == "replica"}
    spans = case.spans
    handled = spans.loc[spans["service"].isin(replicas), ["trace_id", "service", "start"]]
    last = handled.sort_values("start", kind="stable").drop_duplicates("trace_id", keep="last")
    return last.set_index("trace_id")["service"].astype(str)


def seconds_since(origin: datetime, times: pd.Series) -> pd.Series:
    return (times - pd.Timestamp(origin)).dt.total_seconds()


def phase_of(record: CaseRecord, times: pd.Series) -> pd.Series:
    """Return the phase name of each time; NA outside all phases."""
    names = pd.Series(pd.NA, index=times.index, dtype="string")
    for phase in record.phases:
        names[(times >= phase.start) & (times < phase.end)] = phase.name
    return names


@dataclass(frozen=True)
class LatencyScatter:
    """Requests to draw, one element per request in scheduled order, and running quantiles over *all* requests.

    ``seconds``: scheduled time since injection; ``latency_s``: NaN without an answer; ``service``: index into
    ``services`` (-1: unknown), of which ``OTHER_SERVICES`` stands for those not told apart; ``bins``: centre of each
    quantile bin.
    """

    services: tuple[str, ...]
    seconds: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    failed: NDArray[np.bool_]
    service: NDArray[np.int64]
    errors: tuple[str, ...]
    bins: NDArray[np.float64]
    p50: NDArray[np.float64]
    p95: NDArray[np.float64]
    bin_s: float
    total: int


def latency_scatter(
    case: Case, origin: datetime | None = None, told_apart: Collection[str] | None = None
) -> LatencyScatter | None:
    """Choose the requests to draw; None without requests.

    At most ``MAX_REQUESTS`` are kept: failed and slowest first, the rest evenly.

    ``origin``: the inject time, if not the record's. ``told_apart``: replicas shown by name, None for all.
    """
    outcomes = case.requests.join(observed(case.requests))
    if outcomes.empty:
        return None
    outcomes = outcomes.sort_values("scheduled", kind="stable").reset_index(drop=True)
    outcomes["seconds"] = seconds_since(origin or case.record.injection_time, outcomes["scheduled"])
    bin_s, quantiles = _running_quantiles(outcomes)
    handled = serving_replica(case)
    if told_apart is not None:
        handled = handled.where(handled.isin(told_apart), OTHER_SERVICES)
    services = tuple(sorted(handled.unique()))
    shown = outcomes.iloc[_thinned(outcomes)]
    served = shown["trace_id"].map(handled) if services else pd.Series(index=shown.index, dtype=object)
    problems = shown["error"].fillna("").astype(str).str.slice(0, MAX_ERROR_CHARACTERS)
    no_text = shown["failed"] & (problems == "")
    statuses = shown["status"].astype("Int64").astype("string").radd("HTTP ").fillna("no answer")
    return LatencyScatter(
        services=services,
        seconds=shown["seconds"].to_numpy(float),
        latency_s=shown["latency_s"].to_numpy(float),
        failed=shown["failed"].to_numpy(bool),
        service=pd.Categorical(served, categories=list(services)).codes.astype(np.int64),
        errors=tuple(problems.mask(no_text, statuses).where(shown["failed"], "")),
        bins=(quantiles.index.to_numpy(float) + 0.5) * bin_s,
        p50=quantiles[0.5].to_numpy(float),
        p95=quantiles[0.95].to_numpy(float),
        bin_s=bin_s,
        total=len(outcomes),
    )


def _running_quantiles(outcomes: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Return bin width (s) and quantiles per bin of about ten requests; bin edges include the injection time."""
    span = float(outcomes["seconds"].max() - outcomes["seconds"].min())
    bin_s = max(span / MAX_BINS, span * REQUESTS_PER_BIN / len(outcomes), MIN_BIN_S)
    answered = outcomes[~outcomes["failed"]]
    bins = np.floor(answered["seconds"] / bin_s).rename("bin")
    return bin_s, answered["latency_s"].groupby(bins).quantile(np.array([0.5, 0.95])).unstack().reindex(
        columns=[0.5, 0.95]
    )


def _thinned(outcomes: pd.DataFrame) -> NDArray[np.intp]:
    """Return the positions of the requests to draw."""
    if len(outcomes) <= MAX_REQUESTS:
        return np.arange(len(outcomes))
    failed = np.flatnonzero(outcomes["failed"])
    slowest = np.argsort(-outcomes["latency_s"].fillna(0.0).to_numpy(), kind="stable")[: MAX_REQUESTS // 10]
    kept = np.union1d(_evenly(failed, MAX_REQUESTS // 3), slowest)
    rest = np.setdiff1d(np.flatnonzero(~outcomes["failed"]), kept)
    return np.union1d(kept, _evenly(rest, MAX_REQUESTS - kept.size))


def _evenly(positions: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    if positions.size <= count:
        return positions
    return positions[np.linspace(0, positions.size - 1, count).astype(int)]
