"""Names of series, by version of their exporter.

A renamed series has its names listed newest first; they are queried in turn until every service has answered, so one
case may mix versions. Notes are shown when a series is missing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SeriesName:
    """A name and the versions that export it by default. ``until``: the first that does not (empty: none)."""

    name: str
    since: str
    until: str = ""


RAY_VLLM_PREFIXES = (
    SeriesName("ray_vllm_", since="vLLM 0.11 with Ray 2.50"),
    SeriesName("ray_vllm:", since="vLLM 0.9 with Ray 2.46", until="vLLM 0.11"),
)
"""vLLM's metrics through Ray. OpenTelemetry allows no colon in a name."""

VLLM_PREFIX = SeriesName("vllm:", since="vLLM 0.4")
"""vLLM's own endpoint."""

VLLM_RENAMED: dict[str, tuple[SeriesName, ...]] = {
    "kv_cache_usage_perc": (
        SeriesName("kv_cache_usage_perc", since="vLLM 0.9.2"),
        SeriesName("gpu_cache_usage_perc", since="vLLM 0.4", until="vLLM 0.11"),
    ),
    "inter_token_latency_seconds": (
        SeriesName("inter_token_latency_seconds", since="vLLM 0.10.2"),
        SeriesName("time_per_output_token_seconds", since="vLLM 0.4", until="vLLM 0.12"),
    ),
}
"""Names without prefix; every other vLLM name in the metric map holds from vLLM 0.8 (engine V1) to 0.33."""


def vllm_names(name: str) -> tuple[str, ...]:
    """Return the series' name and its older names."""
    return tuple(known.name for known in VLLM_RENAMED.get(name, (SeriesName(name, since="vLLM 0.8"),)))


_WAYPOINT = 'reporter="waypoint" needs Istio 1.24 and a waypoint for the namespace'

NOTES: dict[str, str] = {
    "container_cpu_cfs_throttled_seconds_total": (
        "kube-prometheus-stack drops it unless kubelet.serviceMonitor.cAdvisorMetricRelabelings is set"
    ),
    "DCGM_FI_DEV_POWER_VIOLATION": "not among dcgm-exporter's default counters",
    "DCGM_FI_DEV_THERMAL_VIOLATION": "not among dcgm-exporter's default counters",
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": "not among dcgm-exporter's default counters",
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": "not among dcgm-exporter's default counters",
    "DCGM_EXP_CLOCK_EVENTS_COUNT": "not among the default counters; dcgm-exporter 3.3.5 and later",
    "DCGM_FI_PROF_SM_ACTIVE": "not among the default counters; data-centre GPUs only",
    "DCGM_FI_DEV_GPU_UTIL": "not there on GPUs in MIG mode",
    "kube_pod_container_resource_limits": "pods without limits have none",
    "istio_request_duration_milliseconds_bucket": _WAYPOINT,
    "istio_requests_total": _WAYPOINT,
}
