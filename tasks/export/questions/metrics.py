"""Which series make up each canonical metric.

A canonical metric has one name and one unit whatever stack it was seen on. Each has an ordered list of variants; for
each service the first variant that answers is used and named in the column ``source``. ``series_names`` has the names
that changed from version to version, ``ray_metrics`` and ``cluster_metrics`` the questions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tasks.export.questions.cluster import (
    MIB,
    POD,
    container_gauge,
    container_rate,
    dcgm_gauge,
    dcgm_rate,
    dcgm_sum,
    kube_limit,
    kube_pods,
    kube_restarts,
    network_rate,
    quota_use,
    ray_node,
    waypoint_errors,
    waypoint_quantile,
    waypoint_requests,
)
from tasks.export.questions.promql import (
    ALL_ROLES,
    GATEWAY_ONLY,
    HEAD_ONLY,
    REPLICA_ONLY,
    MetricSpec,
    Profile,
    Variant,
)
from tasks.export.questions.ray import (
    HTTP_WITNESS,
    REPLICA_WITNESS,
    by_proxy,
    everywhere,
    held,
    milliseconds_mean,
    rate,
    ray_late_counter_rate,
    vllm_gauge,
    vllm_late_rate,
    vllm_mean,
    vllm_rate,
)
from tasks.export.questions.series_names import NOTES
from tasks.stack import Role

METRIC_MAP_VERSION = 2

SPANS_SOURCE = "spans"
"""Source of the metrics that ``tasks.export.questions.spans`` derives from spans."""


def _local_rate(series: str) -> str:
    return f"sum by (service) (rate({series}{{}}[$window]))"


def _cgroup(promql: str, roles: frozenset[Role] = ALL_ROLES) -> Variant:
    return Variant("cgroup", promql, roles)


_PROCESSING = milliseconds_mean("ray_serve_deployment_processing_latency_ms")

METRIC_MAP: tuple[MetricSpec, ...] = (
    MetricSpec(
        "cpu_usage",
        "cores",
        "paper",
        (
            _cgroup(_local_rate("container_cpu_usage_seconds_total")),
            container_rate("container_cpu_usage_seconds_total"),
            ray_node(
                f"max by ({POD}) (ray_node_cpu_utilization{{$scope}})"
                f" * on ({POD}) max by ({POD}) (ray_node_cpu_count{{$scope}}) / 100"
            ),
        ),
    ),
    MetricSpec(
        "memory_working_set",
        "bytes",
        "paper",
        (
            _cgroup("sum by (service) (container_memory_working_set_bytes{})"),
            container_gauge("container_memory_working_set_bytes"),
            ray_node(f"max by ({POD}) (ray_node_mem_used{{$scope}})"),
        ),
    ),
    MetricSpec(
        "network_receive",
        "bytes/s",
        "paper",
        (
            _cgroup(_local_rate("container_network_receive_bytes_total")),
            network_rate("container_network_receive_bytes_total"),
            ray_node(f"max by ({POD}) (ray_node_network_receive_speed{{$scope}})"),
        ),
    ),
    MetricSpec(
        "network_transmit",
        "bytes/s",
        "paper",
        (
            _cgroup(_local_rate("container_network_transmit_bytes_total")),
            network_rate("container_network_transmit_bytes_total"),
            ray_node(f"max by ({POD}) (ray_node_network_send_speed{{$scope}})"),
        ),
    ),
    MetricSpec(
        "accelerator_utilization",
        "ratio",
        "paper",
        (
            # The local accelerator is the CPU quota of the engine's cgroup: use of what the quota grants.
            _cgroup(
                f"{_local_rate('container_cpu_usage_seconds_total')}"
                " / sum by (service) (container_spec_cpu_quota{} / container_spec_cpu_period{})",
                roles=REPLICA_ONLY,
            ),
            dcgm_gauge("DCGM_FI_DEV_GPU_UTIL", "mean", 0.01),
            dcgm_gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "mean"),
            ray_node(
                f"avg by ({POD}) (ray_node_gpus_utilization{{$scope}})",
                "mean",
                0.01,
                REPLICA_ONLY,
                accelerator="gpu",
            ),
            quota_use(),
        ),
    ),
    MetricSpec("latency_p50", "s", "paper", waypoint_quantile(0.5), span_roles=ALL_ROLES),
    MetricSpec("latency_p90", "s", "paper", waypoint_quantile(0.9), span_roles=ALL_ROLES),
    MetricSpec(
        "cpu_throttled",
        "s/s",
        "llm",
        (
            _cgroup(_local_rate("container_cpu_cfs_throttled_seconds_total")),
            container_rate("container_cpu_cfs_throttled_seconds_total"),
        ),
    ),
    MetricSpec(
        "memory_rss",
        "bytes",
        "llm",
        (_cgroup("sum by (service) (container_memory_rss{})"), container_gauge("container_memory_rss")),
    ),
    MetricSpec(
        "memory_limit_hits",
        "events/s",
        "llm",
        (_cgroup(_local_rate("container_memory_failcnt")), container_rate("container_memory_failcnt")),
    ),
    MetricSpec(
        "processes",
        "processes",
        "llm",
        (_cgroup("sum by (service) (container_processes{})"), container_gauge("container_processes")),
    ),
    MetricSpec(
        "network_dropped",
        "packets/s",
        "llm",
        (
            _cgroup(
                f"{_local_rate('container_network_receive_packets_dropped_total')}"
                f" + {_local_rate('container_network_transmit_packets_dropped_total')}"
            ),
            network_rate(
                "container_network_receive_packets_dropped_total", "container_network_transmit_packets_dropped_total"
            ),
        ),
    ),
    MetricSpec("cpu_limit", "cores", "llm", (kube_limit("cpu"),)),
    MetricSpec("memory_limit", "bytes", "llm", (kube_limit("memory"),)),
    MetricSpec("restarts_rate", "restarts/s", "llm", (kube_restarts(),)),
    MetricSpec("pods_running", "pods", "llm", (kube_pods("kube_pod_status_phase", 'phase="Running"'),)),
    MetricSpec("pods_ready", "pods", "llm", (kube_pods("kube_pod_status_ready", 'condition="true"'),)),
    MetricSpec("gpu_sm_clock", "MHz", "llm", (dcgm_gauge("DCGM_FI_DEV_SM_CLOCK", "mean"),)),
    MetricSpec("gpu_sm_active", "ratio", "llm", (dcgm_gauge("DCGM_FI_PROF_SM_ACTIVE", "mean"),)),
    MetricSpec("gpu_temperature", "celsius", "llm", (dcgm_gauge("DCGM_FI_DEV_GPU_TEMP", "max"),)),
    MetricSpec("gpu_power", "W", "llm", (dcgm_gauge("DCGM_FI_DEV_POWER_USAGE", "sum"),)),
    MetricSpec(
        "gpu_power_limit",
        "W",
        "llm",
        (
            dcgm_gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", "sum"),
            dcgm_gauge("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "sum"),
        ),
    ),
    MetricSpec("gpu_power_violation", "s/s", "llm", (dcgm_rate("DCGM_FI_DEV_POWER_VIOLATION", "max", 1e-9),)),
    MetricSpec("gpu_thermal_violation", "s/s", "llm", (dcgm_rate("DCGM_FI_DEV_THERMAL_VIOLATION", "max", 1e-9),)),
    MetricSpec(
        "gpu_clock_events",
        "events",
        "llm",
        (dcgm_sum("DCGM_EXP_CLOCK_EVENTS_COUNT", 'clock_event!="gpu_idle"'),),
    ),
    MetricSpec(
        "gpu_memory_used",
        "bytes",
        "llm",
        (
            dcgm_gauge("DCGM_FI_DEV_FB_USED", "sum", MIB),
            ray_node(f"sum by ({POD}) (ray_node_gram_used{{$scope}})", "sum", MIB, REPLICA_ONLY, accelerator="gpu"),
        ),
    ),
    MetricSpec("gpu_last_xid", "code", "llm", (dcgm_gauge("DCGM_FI_DEV_XID_ERRORS", "max"),)),
    MetricSpec("requests_running", "requests", "llm", vllm_gauge("sum", "num_requests_running")),
    MetricSpec("requests_waiting", "requests", "llm", vllm_gauge("sum", "num_requests_waiting")),
    MetricSpec("kv_cache_usage", "ratio", "llm", vllm_gauge("max", "kv_cache_usage_perc")),
    MetricSpec("ttft_mean", "s", "llm", vllm_mean("time_to_first_token_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec(
        "inter_token_latency_mean", "s", "llm", vllm_mean("inter_token_latency_seconds"), span_roles=REPLICA_ONLY
    ),
    MetricSpec("queue_time_mean", "s", "llm", vllm_mean("request_queue_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("prefill_time_mean", "s", "llm", vllm_mean("request_prefill_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("decode_time_mean", "s", "llm", vllm_mean("request_decode_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("e2e_latency_mean", "s", "llm", vllm_mean("e2e_request_latency_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("generation_tokens_rate", "tokens/s", "llm", vllm_rate("generation_tokens_total")),
    MetricSpec("prompt_tokens_rate", "tokens/s", "llm", vllm_rate("prompt_tokens_total")),
    MetricSpec(
        "preemptions_rate", "preemptions/s", "llm", vllm_late_rate("num_preemptions_total", "num_requests_running")
    ),
    MetricSpec(
        "serve_ongoing_requests",
        "requests",
        "llm",
        (
            *everywhere("ray_serve", held("sum", REPLICA_WITNESS), REPLICA_ONLY),
            *by_proxy(held("sum", HTTP_WITNESS)),
        ),
    ),
    MetricSpec(
        "serve_queued_requests",
        "requests",
        "llm",
        by_proxy(held("sum", "ray_serve_deployment_queued_queries")),
    ),
    MetricSpec(
        "serve_processing_latency_mean",
        "s",
        "llm",
        (
            *everywhere("ray_serve", _PROCESSING[0], REPLICA_ONLY, divisor=_PROCESSING[1]),
            *by_proxy(*milliseconds_mean("ray_serve_http_request_latency_ms")),
        ),
        span_roles=HEAD_ONLY | REPLICA_ONLY,
    ),
    MetricSpec(
        "serve_healthy_replicas",
        "replicas",
        "llm",
        everywhere("ray_serve", held("sum", "ray_serve_deployment_replica_healthy"), HEAD_ONLY),
    ),
    MetricSpec(
        "request_rate",
        "requests/s",
        "llm",
        (
            *everywhere("ray_serve", rate("ray_serve_deployment_request_counter_total"), REPLICA_ONLY),
            *by_proxy(rate("ray_serve_num_http_requests_total")),
            *waypoint_requests(),
        ),
        span_roles=GATEWAY_ONLY,
    ),
    MetricSpec(
        "error_rate",
        "requests/s",
        "llm",
        (
            *everywhere(
                "ray_serve",
                ray_late_counter_rate("ray_serve_deployment_error_counter_total", REPLICA_WITNESS),
                REPLICA_ONLY,
            ),
            *by_proxy(ray_late_counter_rate("ray_serve_num_http_error_requests_total", HTTP_WITNESS)),
            *waypoint_errors(),
        ),
        span_roles=GATEWAY_ONLY,
    ),
)

SPECS: dict[str, MetricSpec] = {spec.name: spec for spec in METRIC_MAP}


def metric_names(profile: Profile) -> tuple[str, ...]:
    """Metrics that a method may see under ``profile``; ``llm`` includes ``paper``."""
    return tuple(spec.name for spec in METRIC_MAP if profile == "llm" or spec.profile == "paper")


def expected_services(spec: MetricSpec, roles: Mapping[str, Role], backend: str, gpus: bool = True) -> tuple[str, ...]:
    """Services of the stack that should have the metric on this backend, with or without GPUs."""
    wanted = spec.roles_of(backend, gpus)
    return tuple(service for service, role in roles.items() if role in wanted)


def missing_metrics(
    found: Collection[tuple[str, str]],
    roles: Mapping[str, Role],
    backend: str,
    specs: Iterable[MetricSpec] = METRIC_MAP,
    gpus: bool = True,
) -> dict[str, tuple[str, ...]]:
    """Canonical metrics without any sample: metric -> services that lack it.

    Args:
        found: ``(metric, service)`` pairs that have samples.
        roles: service -> role, for every service of the stack.
    """
    lacking = {
        spec.name: tuple(s for s in expected_services(spec, roles, backend, gpus) if (spec.name, s) not in found)
        for spec in specs
    }
    return {name: services for name, services in lacking.items() if services}


def explain_missing(missing: Mapping[str, Iterable[str]], backend: str, gpus: bool = True) -> list[str]:
    """One line for each metric that ``missing_metrics`` or ``absent_metrics`` reports: which series would give it."""
    lines = []
    for name, services in missing.items():
        variants = SPECS[name].variants_of(backend, gpus)
        choices = list(dict.fromkeys(" with ".join(variant.series) for variant in variants))
        if SPECS[name].span_roles:
            choices.insert(0, "spans")
        notes = list(dict.fromkeys(NOTES[series] for v in variants for series in v.series if series in NOTES))
        remark = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"{name} of {', '.join(services)}: needs {', or '.join(choices)}{remark}")
    return lines


def absent_metrics(
    series: Collection[str], roles: Mapping[str, Role], backend: str, gpus: bool = True
) -> dict[str, tuple[str, ...]]:
    """Canonical metrics that these names of series cannot make up: metric -> services that would lack it.

    For a look at a Prometheus before the stack is up. Metrics that spans can give are not reported, nor those of Ray
    and vLLM, which export nothing before they run.
    """
    found = {
        (spec.name, service)
        for spec in METRIC_MAP
        for service, role in roles.items()
        if role in spec.span_roles
        or any(
            role in variant.roles and (all(name in series for name in variant.series) or _needs_a_stack(variant))
            for variant in spec.variants_of(backend, gpus)
        )
    }
    return missing_metrics(found, roles, backend, gpus=gpus)


def _needs_a_stack(variant: Variant) -> bool:
    return variant.source in ("ray_vllm", "vllm", "ray_serve")
