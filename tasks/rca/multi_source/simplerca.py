"""SimpleRCA: the service with the most alerts."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION, Direction, credible
from tasks.rca.features.events import log_times
from tasks.rca.features.keywords import KEYWORDS, contains
from tasks.rca.features.rows import quantile_per_cell
from tasks.rca.features.silence import find_silence
from tasks.rca.features.spans import numbered, span_table
from tasks.rca.features.steps import Steps, steps_of
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

_P95 = 0.95
Rule = Literal["sigma", "p95"]
Count = Literal["events", "rules"]


@method(
    name="simplerca",
    family="multi-source",
    needs=set(),
    paper=Paper(
        "Rethinking the Evaluation of Microservice RCA with a Fault Propagation-Aware Benchmark",
        "arXiv 2510.04711",
        2025,
    ),
    beyond=True,
)
def simplerca(
    view: CaseView,
    rng: np.random.Generator,
    *,
    metric_rule: Rule = "sigma",
    n_sigma: float = 3.0,
    direction: Direction = "both",
    latency_factor: float = 3.0,
    keywords: str = KEYWORDS,
    count: Count = "events",
) -> Ranking:
    """Services by the number of their alerts after the inject time: metrics, span latency and error words in logs.

    Described: fixed rules raise alerts (a metric beyond 3 sigma, or beyond the 95th percentile; the 95th percentile of
    latency above 3 times the baseline; error keywords in logs), and the service with most of them is the root cause.
    Decided here: a metric raises an alert with each sample that is more than ``n_sigma`` normal standard deviations off
    the normal mean (``metric_rule`` ``p95``: above the 95th percentile of the normal samples); an operation in each
    step in which the 95th percentile of its spans exceeds ``latency_factor`` times that of all its normal spans; a log
    with each line whose message or level contains a keyword. ``count`` ``rules``: each metric, operation and log counts
    once, however often it alerts.
    Ranks services, all of them. Inputs: inject time, and of metrics, logs and spans what there is (at least one).
    Parameters: ``metric_rule`` ``sigma``, ``n_sigma`` 3, ``direction`` of metrics (``both``; ``up``: only rises),
    ``latency_factor`` 3, ``keywords`` (a regular expression, any case), ``count`` ``events``. Complexity: O(columns x
    rows + log lines + spans log spans). Randomness: none. Source: Fang et al., arXiv 2510.04711, 2025. Deviations: the
    above; a metric whose samples stop or begin at the fault by at least ``n_sigma``
    (:mod:`tasks.rca.features.silence`) alerts with each of them; few normal samples support few standard deviations
    (:func:`tasks.rca.features.deviation.credible`); an operation without normal spans has no baseline.
    """
    sources = [
        _metric_alerts(view, metric_rule, n_sigma, direction),
        _span_alerts(view, latency_factor),
        _log_alerts(view, keywords),
    ]
    if all(alerts is None for alerts in sources):
        raise MethodError("no metric or span on both sides of the inject time, and no log line after it")
    alerts = pd.concat([found for found in sources if found is not None])
    if count == "rules":
        alerts = (alerts > 0).astype(int)
    total = alerts.groupby(level=0).sum()
    if not total.reindex(view.services).gt(0).any():
        raise MethodError("no alert after the inject time")
    return Ranking.of_services({service: float(total.get(service, 0)) for service in view.services})


def _metric_alerts(view: CaseView, rule: Rule, n_sigma: float, direction: Direction) -> pd.Series | None:
    """Return alerts of each metric, indexed by service; None without samples on both sides."""
    normal, abnormal = (np.asarray(part, dtype=float) for part in view.split())
    if not (np.isfinite(normal).any() and np.isfinite(abnormal).any()):
        return None
    values = np.concatenate([normal, abnormal])
    after = np.arange(len(values)) >= len(normal)
    count = np.count_nonzero(~np.isnan(normal), axis=0)
    largest = np.fmax.reduce(np.abs(values), axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    before, now = normal / scale, abnormal / scale
    known = count > 0
    alerting = np.zeros(now.shape, dtype=bool)
    if rule == "sigma":
        mean = np.nansum(before, axis=0) / np.maximum(count, 1)
        spread = np.sqrt(np.nansum((before - mean) ** 2, axis=0) / np.maximum(count, 1))
        away = now - mean if direction == "up" else np.abs(now - mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            alerting = np.where(
                spread > RESOLUTION,
                credible(away / spread, count) > n_sigma,
                (away > RESOLUTION) & (count > n_sigma**2),
            )
    elif known.any():
        alerting[:, known] = now[:, known] > np.nanquantile(before[:, known], _P95, axis=0) + RESOLUTION
    silence = find_silence(view.metrics, after)
    absent = silence.cells[after] & (silence.stopped >= n_sigma) & (direction == "both")
    new = ~np.isnan(now) & (silence.began >= n_sigma)
    found = ((alerting & known) | absent | new).sum(axis=0)
    return pd.Series(found, index=view.metrics.columns.get_level_values(0).astype(str))


def _span_alerts(view: CaseView, factor: float) -> pd.Series | None:
    """Return alerts of each operation, indexed by service; None without spans on both sides."""
    table = span_table(view)
    if not (table.after.any() and (~table.after).any()):
        return None
    size = len(table.operations)
    baseline = quantile_per_cell(np.where(table.after, -1, 0), table.operation, table.duration, (1, size), _P95)[0]
    steps = steps_of(view, table.end)
    after = Steps(steps.inject_ns, steps.length_ns, 0, steps.after)
    latency = quantile_per_cell(after.place(table.end), table.operation, table.duration, (len(after), size), _P95)
    found = (latency > factor * baseline * (1 + RESOLUTION)).sum(axis=0)
    return pd.Series(found, index=[service for service, _ in table.operations])


def _log_alerts(view: CaseView, keywords: str) -> pd.Series | None:
    """Return lines with a keyword of each service; None without a line after the inject time."""
    tail = view.logs[log_times(view) >= view.inject_time.value]
    if tail.empty:
        return None
    service, services = numbered(tail["service"])
    named = contains(tail["message"], keywords) | contains(tail["level"], keywords)
    return pd.Series(np.bincount(service[named], minlength=len(services)), index=list(services))
