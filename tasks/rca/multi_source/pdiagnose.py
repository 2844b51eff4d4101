"""PDiagnose: metrics, logs and spans vote for the service that shows most anomalies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import FEW_SAMPLES, RESOLUTION, Direction, credible
from tasks.rca.features.keywords import KEYWORDS, contains
from tasks.rca.features.panel import fill_gaps
from tasks.rca.features.rows import with_past
from tasks.rca.features.silence import find_silence
from tasks.rca.features.silent_services import span_silence
from tasks.rca.features.spans import (
    Duration,
    durations,
    link_traces,
    normal_mean_and_deviation,
    span_table,
)
from tasks.rca.features.steps import steps_of
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView, column_names


@method(
    name="pdiagnose",
    family="multi-source",
    needs=set(),
    paper=Paper("Diagnosing Performance Issues in Microservices with Heterogeneous Data Source", "ISPA", 2021),
)
def pdiagnose(
    view: CaseView,
    rng: np.random.Generator,
    *,
    n_sigma: float = 3.0,
    direction: Direction = "both",
    window: int = 5,
    keywords: str = KEYWORDS,
    duration: Duration = "total",
    metric_votes: float = 1.0,
    log_votes: float = 1.0,
    span_votes: float = 1.0,
) -> Ranking:
    """Services by the share of their metric samples, log steps and spans after the inject time that are anomalous.

    Ranks services, all of them. A metric sample is anomalous if the tail of the normal window's kernel density beyond
    it is thinner than that of a normal distribution beyond ``n_sigma``, or if it departs from the weighted moving
    average of the ``window`` samples before it by more than ``n_sigma`` standard deviations of the normal departures.
    So is one that is missing, or new, because the metric stopped or began at the fault by at least ``n_sigma`` (see
    :mod:`tasks.rca.features.silence`; with direction ``up`` beginnings only), and the share of its spans that a service
    has lost when they stopped by as much. A step is anomalous in the logs if a line's message or level contains one of
    the ``keywords``, in any case. A span is anomalous if it took longer than its operation's normal mean + ``n_sigma``
    standard deviations. Each source gives a service its votes times the share of what the service showed after the
    inject time that is anomalous. Inputs: inject time, and of metrics, logs and spans what there is (at least one).
    Parameters: ``n_sigma`` 3, ``direction`` of metrics (``both``, ``up``), ``window`` 5, ``keywords`` (a regular
    expression), ``duration`` of spans (``total``: a span contains its children, ``self``: not), ``metric_votes``,
    ``log_votes``, ``span_votes`` 1. Complexity: O(columns x normal rows x abnormal rows + log lines + spans log spans).
    Randomness: none. Source: Hou et al., ISPA 2021 (detectors: kernel density and weighted moving average for metrics,
    keywords for logs, run time for spans; then a vote). Deviations: the paper's thresholds belong to its data sets,
    ours are ``n_sigma``; its alarm that starts the diagnosis is the inject time. The votes of a source are shares, not
    counts, so that neither the source with most rows nor the service with most metrics wins by its number. Against a
    widely used implementation: nothing before the inject time votes; a metric that never moves gives no vote; keywords
    are found in any case; the weights of the sources have an effect; an operation that was not seen before has no
    normal and gives no vote.
    """
    sources = [
        (metric_votes, _metric_shares(view, n_sigma, direction, window)),
        (log_votes, _log_shares(view, keywords)),
        (span_votes, _span_shares(view, n_sigma, duration)),
    ]
    if all(shares.empty for _, shares in sources):
        raise MethodError("no metric or span on both sides of the inject time, and no log line after it")
    votes = {
        service: sum(weight * float(shares.get(service, 0.0)) for weight, shares in sources)
        for service in view.services
    }
    if not any(votes.values()):
        raise MethodError("nothing is anomalous after the inject time")
    return Ranking.of_services(votes)


def _shares(services: pd.Series | np.ndarray, anomalous: np.ndarray, judged: np.ndarray) -> pd.Series:
    """Anomalous / judged, summed per service; services of which nothing was judged are left out."""
    totals = pd.DataFrame({"anomalous": anomalous, "judged": judged}, dtype=float).groupby(np.asarray(services)).sum()
    totals = totals[totals["judged"] > 0]
    return totals["anomalous"] / totals["judged"]


def _metric_shares(view: CaseView, n_sigma: float, direction: Direction, window: int) -> pd.Series:
    values = view.metrics.to_numpy(dtype=float)
    sampled = ~np.isnan(values)
    after = np.asarray(view.metrics.index >= view.inject_time)
    judged = sampled[after] & sampled[~after].any(axis=0)
    silence = find_silence(view.metrics, after)
    gone, new = silence.stopped >= n_sigma, silence.began >= n_sigma
    absent = (silence.cells[after] & gone) | (sampled[after] & new) if direction == "both" else sampled[after] & new
    if not (judged | absent).any():
        return pd.Series(dtype=float)
    largest = np.fmax.reduce(np.abs(values), axis=0)
    ticks = view.ticks()
    scaled = fill_gaps(values / np.where(largest > 0, largest, 1.0), ticks)
    anomalous = judged & (
        _unlikely(scaled, sampled, after, n_sigma, direction)
        | _sudden(scaled, sampled, after, n_sigma, direction, window, ticks)
    )
    services = [service for service, _ in column_names(view.metrics)]
    return _shares(np.array(services), (anomalous | absent).sum(axis=0), (judged | absent).sum(axis=0))


def _unlikely(
    values: np.ndarray, sampled: np.ndarray, after: np.ndarray, n_sigma: float, direction: Direction
) -> np.ndarray:
    """Tell which values after the inject time lie in the tails of the Gaussian kernel density of those before it."""
    from scipy.special import ndtr

    unlikely = np.zeros((int(after.sum()), values.shape[1]), dtype=bool)
    for column in range(values.shape[1]):
        normal, abnormal = values[sampled[:, column] & ~after, column], values[after, column]
        if not len(normal):
            continue
        spread = normal.std()
        if spread > RESOLUTION:
            unlikely[:, column] = _in_tail(np.sort(normal), abnormal, spread, float(ndtr(-n_sigma)), direction)
            if len(normal) <= FEW_SAMPLES:
                away = np.abs(abnormal - normal.mean()) / spread
                unlikely[:, column] &= credible(away, np.array(len(normal))) > n_sigma
        else:
            departure = abnormal - normal.mean()
            unlikely[:, column] = (departure if direction == "up" else np.abs(departure)) > RESOLUTION
    return unlikely


def _in_tail(
    normal: np.ndarray, values: np.ndarray, spread: float, probability: float, direction: Direction
) -> np.ndarray:
    """Tell which ``values`` have less than ``probability`` beyond them in the density of ``normal`` (ascending)."""
    from scipy.special import ndtr

    count = len(normal)
    above = count - np.searchsorted(normal, values, side="left")
    below = np.searchsorted(normal, values, side="right")
    beyond = above if direction == "up" else np.minimum(above, below)
    far = np.flatnonzero(beyond < 2 * count * probability)
    tail = ndtr((normal - values[far, None]) / (spread * count**-0.2)).mean(axis=1)
    in_tail = np.zeros(len(values), dtype=bool)
    in_tail[far] = (tail if direction == "up" else np.minimum(tail, 1 - tail)) < probability
    return in_tail


def _sudden(
    values: np.ndarray,
    sampled: np.ndarray,
    after: np.ndarray,
    n_sigma: float,
    direction: Direction,
    window: int,
    ticks: np.ndarray,
) -> np.ndarray:
    """Tell which values after the inject time depart from the weighted moving average of those just before them."""
    departure = np.full(values.shape, np.nan)
    weights = np.arange(window, 0, -1) / (window * (window + 1) / 2)
    now = with_past(ticks, window)
    if len(now):
        departure[now] = values[now] - sum(weight * values[now - lag] for lag, weight in enumerate(weights, 1))
    departure[~sampled] = np.nan
    normal, abnormal = departure[~after], departure[after]
    count = np.count_nonzero(~np.isnan(normal), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(normal, axis=0) / count
        spread = np.sqrt(np.nansum((normal - mean) ** 2, axis=0) / count)
        away = abnormal - mean
        away = away if direction == "up" else np.abs(away)
        varies = spread > RESOLUTION
        return np.where(varies, credible(away / spread, count) > n_sigma, away > RESOLUTION) & (count > 1)


def _log_shares(view: CaseView, keywords: str) -> pd.Series:
    """Share of the steps after the inject time in which a service logged a keyword."""
    logs = view.logs
    times = logs["time"].dt.as_unit("ns").astype("int64").to_numpy()
    steps = steps_of(view, times)
    step = steps.place(times)
    late = np.flatnonzero(step >= steps.before)
    if not steps.after or not len(late):
        return pd.Series(dtype=float)
    tail = logs.iloc[late]
    named = contains(tail["message"], keywords) | contains(tail["level"], keywords)
    seen = pd.DataFrame({"service": tail["service"].astype(str).to_numpy(), "step": step[late]})
    hit = seen[named].drop_duplicates()["service"].value_counts()
    return hit.reindex(seen["service"].unique(), fill_value=0) / steps.after


def _span_shares(view: CaseView, n_sigma: float, duration: Duration) -> pd.Series:
    """Share of the spans after the inject time that took longer than is normal for their operation, or are missing."""
    table = span_table(view)
    seconds = durations(table, link_traces(view), duration)
    before = ~table.after
    mean, deviation = normal_mean_and_deviation(seconds, table.operation, len(table.operations), before)
    count = np.bincount(table.operation[before], minlength=len(table.operations))
    judged = np.flatnonzero(table.after & (count > 0)[table.operation])
    operation = table.operation[judged]
    away = seconds[judged] - mean[operation]
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = credible(away / deviation[operation], count[operation])
    slow = (deviations > n_sigma) & (away > n_sigma * deviation[operation] + RESOLUTION * seconds[judged])
    services = np.array(table.services, dtype=object)
    shares = _shares(services[table.service[judged]], slow, np.ones(len(judged)))
    silence = span_silence(view, table)
    gone = pd.Series(np.where(silence.stopped >= n_sigma, silence.share, 0.0), index=services)
    gone = gone[gone > 0]
    shares = shares.reindex(shares.index.union(gone.index), fill_value=0.0)
    lost = gone.reindex(shares.index, fill_value=0.0)
    return shares * (1 - lost) + lost
