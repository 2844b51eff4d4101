"""The platform's own alerts: what the rules that come with the parts of a stack would say.

The rules, as conditions on our metrics. Each keeps its name, threshold, pending time and severity; where our metric is
not the rule's, the last column says what stands in for what.

============================  ==============================  =======  ========  ======================================
rule                          condition                       for      severity  source and deviation
============================  ==============================  =======  ========  ======================================
CPUThrottlingHigh             cpu_throttled > 0.25 s/s        15 min   info      K; throttled share of time, not of
                                                                                 periods
KubePodCrashLooping           restarts_rate > 0               15 min   warning   K; without "and waiting"
KubePodNotReady               pods_ready < 1                  15 min   warning   K; not ready, not only pending
TargetDown                    no sample of a service while    10 min   warning   P; every target of the service, not
                              others have some                                   10 % of a job
LLMDKVCacheSaturation         kv_cache_usage > 0.90           10 min   warning   L
LLMDRequestQueueBuildup       requests_waiting > 50           5 min    warning   L
LLMDHighPreemptions           preemptions_rate > 1 /s         5 min    warning   L
LLMDMemoryPressure            memory_working_set              10 min   warning   L
                              > 0.85 of its limit
LLMDPodRestartLoop            more than 5 restarts in the     5 min    warning   L; window of the case, not 1 h
                              window
LLMDGPUUnderutilization       accelerator_utilization < 0.30  30 min   warning   L; per service, not per node
SWPowerThrottle               gpu_power_violation > 0 s/s     5 min    warning   C; time in violation, not the bit of
                                                                                 the clock event reasons
HWThermalThrottle             gpu_thermal_violation > 0 s/s   3 min    warning   C; likewise
SysLogsXIDError               gpu_last_xid > 0                0        critical  N; the exporter's last code, not the
                                                                                 log line
MissingMetric…ControlStore    no sample of the head while     5 min    critical  R; any metric, not that of the GCS
                              others have some
============================  ==============================  =======  ========  ======================================

K: kubernetes-mixin, alerts/apps_alerts.libsonnet (01dbc5f) and resource_alerts.libsonnet (00e8f1d, default
cpuThrottlingPercent 25). P: kube-prometheus, general.rules. L: llm-d, docs/monitoring/prometheus-alerting-rules.yaml
(bdd5e5b), all rules that name a pod; those over the whole platform or a model (error rate, latency, TTFT, SLO burn)
name no service, and those on replica counts, prefix hits and disaggregation have no metric here. C: Canonical
hardware-observer, src/prometheus_alert_rules/dcgm.yaml (2770f80); a clock lock sets none of its bits. N: NVSentinel
1.31, syslog health monitor; its codes for power and clocks ask for no action. R: KubeRay,
config/prometheus/rules/prometheusRules.yaml (52c82de). The charts of dcgm-exporter and the dashboards of vLLM and its
production-stack come without alert rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks import metrics
from tasks.rca.features.deviation import require_windows
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView, column_names

Severity = Literal["info", "warning", "critical"]
_WEIGHT: dict[Severity, float] = {"info": 1.0, "warning": 100.0, "critical": 10_000.0}
"""One alert outranks any number of less severe ones."""


@dataclass(frozen=True)
class Alert:
    """A rule on one metric of a service. ``fires``: (rows,) values -> (rows,) whether the condition holds; a missing
    sample is NaN and holds none. ``pending_s``: how long it must hold before the alert is sent."""

    name: str
    metric: metrics.Metric
    fires: Callable[[np.ndarray], np.ndarray]
    pending_s: float
    severity: Severity


MINUTE = 60.0
ALERTS = (
    Alert("CPUThrottlingHigh", metrics.CPU_THROTTLED, lambda v: v > 0.25, 15 * MINUTE, "info"),
    Alert("KubePodCrashLooping", metrics.RESTARTS_RATE, lambda v: v > 0, 15 * MINUTE, "warning"),
    Alert("KubePodNotReady", metrics.PODS_READY, lambda v: v < 1, 15 * MINUTE, "warning"),
    Alert("LLMDKVCacheSaturation", metrics.KV_CACHE_USAGE, lambda v: v > 0.90, 10 * MINUTE, "warning"),
    Alert("LLMDRequestQueueBuildup", metrics.REQUESTS_WAITING, lambda v: v > 50, 5 * MINUTE, "warning"),
    Alert("LLMDHighPreemptions", metrics.PREEMPTIONS_RATE, lambda v: v > 1, 5 * MINUTE, "warning"),
    Alert("LLMDGPUUnderutilization", metrics.ACCELERATOR_UTILIZATION, lambda v: v < 0.30, 30 * MINUTE, "warning"),
    Alert("SWPowerThrottle", metrics.GPU_POWER_VIOLATION, lambda v: v > 0, 5 * MINUTE, "warning"),
    Alert("HWThermalThrottle", metrics.GPU_THERMAL_VIOLATION, lambda v: v > 0, 3 * MINUTE, "warning"),
    Alert("SysLogsXIDError", metrics.GPU_LAST_XID, lambda v: v > 0, 0.0, "critical"),
)
MEMORY_PRESSURE, MEMORY_PENDING_S = 0.85, 10 * MINUTE
RESTARTS, RESTARTS_PENDING_S = 5.0, 5 * MINUTE
TARGET_PENDING_S, HEAD_PENDING_S = 10 * MINUTE, 5 * MINUTE


@method(
    name="platform_alerts",
    family="metric",
    needs={"metrics"},
    paper=Paper(
        "Alert rules of kube-prometheus, llm-d, KubeRay, hardware-observer and NVSentinel", "their sources", 2026
    ),
    beyond=True,
)
def platform_alerts(
    view: CaseView, rng: np.random.Generator, *, pending: Literal["ignored", "kept"] = "ignored"
) -> Ranking:
    """Services by the alerts that the rules shipped with the platform would raise for them after the inject time.

    The rules: :mod:`tasks.rca.metric.platform_alerts`. An alert counts if its condition holds after the inject time for
    longer at a stretch than it ever did before: what rang before tells nothing new. One alert outranks any number of
    less severe ones; of equally severe ones more come first. Ranks services: those with an alert, which may be none;
    nothing is said of the others. Inputs: metrics, inject time, context (limits). Parameters: ``pending`` (``ignored``:
    one step is enough, as rules wait for minutes and a case is shorter than that; ``kept``: an alert is raised once its
    condition has held for the rule's time without a break, as the platform does it). Complexity: O(columns x rows).
    Randomness: none. Source: see the table. Deviations: see the table; thresholds are in the units of the vocabulary.
    """
    require_windows(*view.split())
    after = np.asarray(view.metrics.index >= view.inject_time)
    step_s = view.step_s or 1.0
    scores: dict[str, float] = {}
    for service, severity, pending_s, holds in _conditions(view, step_s):
        if service not in view.services:
            continue
        longest = [_longest_run(holds[side]) for side in (~after, after)]
        if longest[1] > longest[0] and (pending == "ignored" or longest[1] * step_s >= pending_s):
            scores[service] = scores.get(service, 0.0) + _WEIGHT[severity]
    return Ranking.of_services(scores)


def _conditions(view: CaseView, step_s: float) -> Iterator[tuple[str, Severity, float, np.ndarray]]:
    """Yield service, severity, pending time (s) and (rows,) whether the condition holds, of each rule and service."""
    values = dict(zip(column_names(view.metrics), view.metrics.to_numpy(dtype=float).T, strict=True))
    for (service, metric), samples in values.items():
        for alert in ALERTS:
            if alert.metric.name == metric:
                yield service, alert.severity, alert.pending_s, alert.fires(samples)
        if metric == metrics.RESTARTS_RATE.name:
            restarts = np.cumsum(np.nan_to_num(samples) * step_s)
            yield service, "warning", RESTARTS_PENDING_S, restarts > RESTARTS
        if metric == metrics.MEMORY_WORKING_SET.name:
            limit = _memory_limit(view, values, service)
            yield service, "warning", MEMORY_PENDING_S, samples > MEMORY_PRESSURE * limit
    yield from _silent_targets(view, values)


def _memory_limit(view: CaseView, values: dict[tuple[str, str], np.ndarray], service: str) -> np.ndarray | float:
    """Return the limit in bytes, (rows,) or one; infinite if there is none."""
    recorded = values.get((service, metrics.MEMORY_LIMIT.name))
    if recorded is not None:
        return np.where(recorded > 0, recorded, np.inf)
    facts = view.context.services.get(service)
    return facts.memory_bytes if facts is not None and facts.memory_bytes else np.inf


def _silent_targets(
    view: CaseView, values: dict[tuple[str, str], np.ndarray]
) -> Iterator[tuple[str, Severity, float, np.ndarray]]:
    seen: dict[str, np.ndarray] = {}
    for (service, _), samples in values.items():
        sampled = ~np.isnan(samples)
        seen[service] = seen[service] | sampled if service in seen else sampled
    heard = np.sum(list(seen.values()), axis=0)
    for service, sampled in seen.items():
        silent = ~sampled & (heard > 0) & sampled.any()
        yield service, "warning", TARGET_PENDING_S, silent
        if view.roles.get(service) == "head":
            yield service, "critical", HEAD_PENDING_S, silent


def _longest_run(holds: np.ndarray) -> int:
    """Return the largest number of rows in a row in which it holds."""
    breaks = np.flatnonzero(~np.concatenate([[False], holds, [False]]))
    return int(np.diff(breaks).max(initial=1)) - 1
