"""The vocabulary of metrics: name, unit, profile, golden signal and roles of every metric this project names.

``METRICS`` are the canonical ones, which ``tasks.export.queries`` fills. ``IMPORTED`` are further ones that other
people's data sets bring. Refer to a metric by its constant: a wrong name then fails at import and in the type check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tasks.stack import ALL_ROLES, Role

Profile = Literal["paper", "llm"]
"""The metrics that methods may see. ``paper``: those of arXiv 2603.02057, by our names. ``llm``: every metric."""
GoldenSignal = Literal["latency", "traffic", "errors", "saturation"]
"""Source of the four: Beyer et al., "Site Reliability Engineering", 2016, chapter 6."""

Source = Literal[
    "spans",
    "cgroup",
    "cadvisor",
    "kube_state",
    "dcgm",
    "ray_node",
    "istio",
    "ray_vllm",
    "vllm",
    "ray_serve",
    "sglang",
    "tgi",
    "process",
    "prometheus",
    "node",
    "envoy",
    "nginx",
    "inference_gateway",
    "vllm_router",
]
"""The origin of a canonical metric: the column ``source``."""

PROFILES: tuple[Profile, ...] = get_args(Profile)
SOURCES: tuple[Source, ...] = get_args(Source)

GATEWAY: frozenset[Role] = frozenset({"gateway"})
HEAD: frozenset[Role] = frozenset({"head"})
REPLICA: frozenset[Role] = frozenset({"replica"})


@dataclass(frozen=True)
class Metric:
    """A metric, with one name and one unit whatever stack it was seen on.

    Args:
        unit: empty where a data set does not say it.
        profile: the narrowest profile that shows it.
        roles: the services that are expected to have it.
        key: drawn first, in the order of this module.
    """

    name: str
    unit: str
    profile: Profile
    golden: GoldenSignal
    roles: frozenset[Role] = frozenset()
    key: bool = False

    def __str__(self) -> str:
        return self.name


METRICS: dict[str, Metric] = {}
"""Name -> canonical metric, in the order in which they are shown."""
IMPORTED: dict[str, Metric] = {}
"""Name -> metric that only imported data sets have."""


def _metric(
    name: str,
    unit: str,
    golden: GoldenSignal,
    roles: frozenset[Role],
    profile: Profile = "llm",
    *,
    key: bool = False,
) -> Metric:
    return METRICS.setdefault(name, Metric(name, unit, profile, golden, roles, key))


def _imported(name: str, unit: str, golden: GoldenSignal) -> Metric:
    return IMPORTED.setdefault(name, Metric(name, unit, "llm", golden))


CPU_USAGE = _metric("cpu_usage", "cores", "saturation", ALL_ROLES, "paper", key=True)
ACCELERATOR_UTILIZATION = _metric("accelerator_utilization", "ratio", "saturation", REPLICA, "paper", key=True)
MEMORY_WORKING_SET = _metric("memory_working_set", "bytes", "saturation", ALL_ROLES, "paper", key=True)
LATENCY_P90 = _metric("latency_p90", "s", "latency", ALL_ROLES, "paper", key=True)
LATENCY_P50 = _metric("latency_p50", "s", "latency", ALL_ROLES, "paper", key=True)
TTFT_MEAN = _metric("ttft_mean", "s", "latency", REPLICA, key=True)
INTER_TOKEN_LATENCY_MEAN = _metric("inter_token_latency_mean", "s", "latency", REPLICA, key=True)
REQUESTS_RUNNING = _metric("requests_running", "requests", "saturation", REPLICA, key=True)
REQUESTS_WAITING = _metric("requests_waiting", "requests", "saturation", REPLICA, key=True)
GENERATION_TOKENS_RATE = _metric("generation_tokens_rate", "tokens/s", "traffic", REPLICA, key=True)
NETWORK_TRANSMIT = _metric("network_transmit", "bytes/s", "saturation", ALL_ROLES, "paper", key=True)
NETWORK_RECEIVE = _metric("network_receive", "bytes/s", "saturation", ALL_ROLES, "paper", key=True)
KV_CACHE_USAGE = _metric("kv_cache_usage", "ratio", "saturation", REPLICA, key=True)

REQUEST_RATE = _metric("request_rate", "requests/s", "traffic", ALL_ROLES)
ERROR_RATE = _metric("error_rate", "requests/s", "errors", ALL_ROLES)
CPU_THROTTLED = _metric("cpu_throttled", "s/s", "saturation", ALL_ROLES)
CPU_LIMIT = _metric("cpu_limit", "cores", "saturation", ALL_ROLES)
MEMORY_RSS = _metric("memory_rss", "bytes", "saturation", ALL_ROLES)
MEMORY_LIMIT = _metric("memory_limit", "bytes", "saturation", ALL_ROLES)
MEMORY_LIMIT_HITS = _metric("memory_limit_hits", "events/s", "saturation", ALL_ROLES)
NETWORK_DROPPED = _metric("network_dropped", "packets/s", "saturation", ALL_ROLES)
NETWORK_RETRANSMITS = _metric("network_retransmits", "segments/s", "errors", frozenset())
PROCESSES = _metric("processes", "processes", "saturation", ALL_ROLES)
SCRAPE_SUCCESS = _metric("scrape_success", "ratio", "errors", frozenset())
RESTARTS_RATE = _metric("restarts_rate", "restarts/s", "saturation", ALL_ROLES)
PODS_RUNNING = _metric("pods_running", "pods", "saturation", ALL_ROLES)
PODS_READY = _metric("pods_ready", "pods", "saturation", ALL_ROLES)

QUEUE_TIME_MEAN = _metric("queue_time_mean", "s", "latency", REPLICA)
PREFILL_TIME_MEAN = _metric("prefill_time_mean", "s", "latency", REPLICA)
DECODE_TIME_MEAN = _metric("decode_time_mean", "s", "latency", REPLICA)
E2E_LATENCY_MEAN = _metric("e2e_latency_mean", "s", "latency", REPLICA)
PROMPT_TOKENS_RATE = _metric("prompt_tokens_rate", "tokens/s", "traffic", REPLICA)
PREEMPTIONS_RATE = _metric("preemptions_rate", "preemptions/s", "saturation", REPLICA)

SERVE_ONGOING_REQUESTS = _metric("serve_ongoing_requests", "requests", "saturation", HEAD | REPLICA)
SERVE_QUEUED_REQUESTS = _metric("serve_queued_requests", "requests", "saturation", HEAD)
SERVE_PROCESSING_LATENCY_MEAN = _metric("serve_processing_latency_mean", "s", "latency", HEAD | REPLICA)
SERVE_HEALTHY_REPLICAS = _metric("serve_healthy_replicas", "replicas", "saturation", HEAD)

GPU_SM_CLOCK = _metric("gpu_sm_clock", "MHz", "saturation", REPLICA)
GPU_SM_ACTIVE = _metric("gpu_sm_active", "ratio", "saturation", REPLICA)
GPU_TEMPERATURE = _metric("gpu_temperature", "celsius", "saturation", REPLICA)
GPU_POWER = _metric("gpu_power", "W", "saturation", REPLICA)
GPU_POWER_LIMIT = _metric("gpu_power_limit", "W", "saturation", REPLICA)
GPU_POWER_VIOLATION = _metric("gpu_power_violation", "s/s", "saturation", REPLICA)
GPU_THERMAL_VIOLATION = _metric("gpu_thermal_violation", "s/s", "saturation", REPLICA)
GPU_CLOCK_EVENTS = _metric("gpu_clock_events", "events", "saturation", REPLICA)
GPU_MEMORY_USED = _metric("gpu_memory_used", "bytes", "saturation", REPLICA)
GPU_LAST_XID = _metric("gpu_last_xid", "code", "saturation", REPLICA)

LATENCY_MEAN = _imported("latency_mean", "s", "latency")
LATENCY_P95 = _imported("latency_p95", "s", "latency")
LATENCY_P99 = _imported("latency_p99", "s", "latency")
CLIENT_LATENCY_P90 = _imported("client_latency_p90", "s", "latency")
CLIENT_LATENCY_P95 = _imported("client_latency_p95", "s", "latency")
CLIENT_LATENCY_P99 = _imported("client_latency_p99", "s", "latency")
SUCCESS_RATIO = _imported("success_ratio", "ratio", "errors")
AVAILABILITY = _imported("availability", "ratio", "errors")
CPU_USAGE_RATIO = _imported("cpu_usage_ratio", "ratio", "saturation")
MEMORY_USAGE_RATIO = _imported("memory_usage_ratio", "ratio", "saturation")
DISK_IO = _imported("disk_io", "", "saturation")
SOCKETS = _imported("sockets", "", "saturation")
SYSCALL_READ = _imported("syscall_read", "", "saturation")
SYSCALL_WRITE = _imported("syscall_write", "", "saturation")
CTN_NETWORK = _imported("ctn_network", "", "saturation")
CTN_MEMORY = _imported("ctn_memory", "", "saturation")
NODE_CPU = _imported("node_cpu", "", "saturation")
NODE_CPU_USAGE_RATIO = _imported("node_cpu_usage_ratio", "ratio", "saturation")
NODE_MEMORY = _imported("node_memory", "", "saturation")
NODE_MEMORY_USAGE_RATIO = _imported("node_memory_usage_ratio", "ratio", "saturation")
NODE_NETWORK = _imported("node_network", "", "saturation")
NODE_NETWORK_RECEIVE = _imported("node_network_receive", "bytes/s", "saturation")


def is_visible(metric: str, profile: Profile) -> bool:
    """True if a method that runs under ``profile`` sees the metric; ``llm`` shows unknown ones, too."""
    return profile == "llm" or (metric in METRICS and METRICS[metric].profile == "paper")
