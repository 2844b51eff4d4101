"""Maps each canonical metric to the series that fill it.

A canonical metric has one name and one unit whatever stack it was seen on. Each has an ordered list of variants; for
each service the first variant that answers is used and named in the column ``source``. ``series_names`` has the names
that changed from version to version, ``ray`` and ``cluster`` the questions, ``labelled`` those for stacks of others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from tasks import metrics
from tasks.export.queries.cluster import (
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
from tasks.export.queries.labelled import LABELLED
from tasks.export.queries.promql import MetricSpec, Variant
from tasks.export.queries.ray import (
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
from tasks.export.queries.series_names import NOTES
from tasks.export.sources.placement import Units
from tasks.metrics import GATEWAY, HEAD, METRICS, REPLICA, Metric
from tasks.stack import ALL_ROLES, Role

METRIC_MAP_VERSION = 2


def _spec(
    metric: Metric, *sources: Variant | tuple[Variant, ...], span_roles: frozenset[Role] = frozenset()
) -> MetricSpec:
    listed = ((source,) if isinstance(source, Variant) else source for source in sources)
    return MetricSpec(metric, (*chain.from_iterable(listed), *LABELLED.get(metric, ())), span_roles)


def _local_rate(series: str) -> str:
    return f"sum by (service) (rate({series}{{}}[$window]))"


def _counter(series: str) -> tuple[Variant, Variant]:
    """Query the rate of a counter of cgroups or containers."""
    return Variant("cgroup", _local_rate(series)), container_rate(series)


def _gauge(series: str) -> tuple[Variant, Variant]:
    """Query a gauge of cgroups or containers."""
    return Variant("cgroup", f"sum by (service) ({series}{{}})"), container_gauge(series)


def _network(*series: str) -> tuple[Variant, Variant]:
    """Query the rates of counters of network interfaces, summed."""
    return Variant("cgroup", " + ".join(map(_local_rate, series))), network_rate(*series)


_CPU_SECONDS = "container_cpu_usage_seconds_total"
_LOCAL_QUOTA = "sum by (service) (container_spec_cpu_quota{} / container_spec_cpu_period{})"
"""Divisor of the local accelerator utilisation: the CPU quota (cores) of the engine's cgroup."""
_PROCESSING = milliseconds_mean("ray_serve_deployment_processing_latency_ms")

METRIC_MAP: tuple[MetricSpec, ...] = (
    _spec(
        metrics.CPU_USAGE,
        _counter(_CPU_SECONDS),
        ray_node(
            f"max by ({POD}) (ray_node_cpu_utilization{{$scope}})"
            f" * on ({POD}) max by ({POD}) (ray_node_cpu_count{{$scope}}) / 100"
        ),
    ),
    _spec(
        metrics.MEMORY_WORKING_SET,
        _gauge("container_memory_working_set_bytes"),
        ray_node(f"max by ({POD}) (ray_node_mem_used{{$scope}})"),
    ),
    _spec(
        metrics.NETWORK_RECEIVE,
        _network("container_network_receive_bytes_total"),
        ray_node(f"max by ({POD}) (ray_node_network_receive_speed{{$scope}})"),
    ),
    _spec(
        metrics.NETWORK_TRANSMIT,
        _network("container_network_transmit_bytes_total"),
        ray_node(f"max by ({POD}) (ray_node_network_send_speed{{$scope}})"),
    ),
    _spec(
        metrics.ACCELERATOR_UTILIZATION,
        Variant("cgroup", f"{_local_rate(_CPU_SECONDS)} / {_LOCAL_QUOTA}", REPLICA),
        dcgm_gauge("DCGM_FI_DEV_GPU_UTIL", "mean", 0.01),
        dcgm_gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "mean"),
        ray_node(f"avg by ({POD}) (ray_node_gpus_utilization{{$scope}})", "mean", 0.01, REPLICA, accelerator="gpu"),
        quota_use(),
    ),
    _spec(metrics.LATENCY_P50, waypoint_quantile(0.5), span_roles=ALL_ROLES),
    _spec(metrics.LATENCY_P90, waypoint_quantile(0.9), span_roles=ALL_ROLES),
    _spec(metrics.CPU_THROTTLED, _counter("container_cpu_cfs_throttled_seconds_total")),
    _spec(metrics.MEMORY_RSS, _gauge("container_memory_rss")),
    _spec(metrics.MEMORY_LIMIT_HITS, _counter("container_memory_failcnt")),
    _spec(metrics.PROCESSES, _gauge("container_processes")),
    _spec(
        metrics.NETWORK_DROPPED,
        _network("container_network_receive_packets_dropped_total", "container_network_transmit_packets_dropped_total"),
    ),
    _spec(metrics.NETWORK_RETRANSMITS),
    _spec(metrics.SCRAPE_SUCCESS),
    _spec(metrics.CPU_LIMIT, kube_limit("cpu")),
    _spec(metrics.MEMORY_LIMIT, kube_limit("memory")),
    _spec(metrics.RESTARTS_RATE, kube_restarts()),
    _spec(metrics.PODS_RUNNING, kube_pods("kube_pod_status_phase", 'phase="Running"')),
    _spec(metrics.PODS_READY, kube_pods("kube_pod_status_ready", 'condition="true"')),
    _spec(metrics.GPU_SM_CLOCK, dcgm_gauge("DCGM_FI_DEV_SM_CLOCK", "mean")),
    _spec(metrics.GPU_SM_ACTIVE, dcgm_gauge("DCGM_FI_PROF_SM_ACTIVE", "mean")),
    _spec(metrics.GPU_TEMPERATURE, dcgm_gauge("DCGM_FI_DEV_GPU_TEMP", "max")),
    _spec(metrics.GPU_POWER, dcgm_gauge("DCGM_FI_DEV_POWER_USAGE", "sum")),
    _spec(
        metrics.GPU_POWER_LIMIT,
        dcgm_gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", "sum"),
        dcgm_gauge("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "sum"),
    ),
    _spec(metrics.GPU_POWER_VIOLATION, dcgm_rate("DCGM_FI_DEV_POWER_VIOLATION", "max", 1e-9)),
    _spec(metrics.GPU_THERMAL_VIOLATION, dcgm_rate("DCGM_FI_DEV_THERMAL_VIOLATION", "max", 1e-9)),
    _spec(metrics.GPU_CLOCK_EVENTS, dcgm_sum("DCGM_EXP_CLOCK_EVENTS_COUNT", 'clock_event!="gpu_idle"')),
    _spec(
        metrics.GPU_MEMORY_USED,
        dcgm_gauge("DCGM_FI_DEV_FB_USED", "sum", MIB),
        ray_node(f"sum by ({POD}) (ray_node_gram_used{{$scope}})", "sum", MIB, REPLICA, accelerator="gpu"),
    ),
    _spec(metrics.GPU_LAST_XID, dcgm_gauge("DCGM_FI_DEV_XID_ERRORS", "max")),
    _spec(metrics.REQUESTS_RUNNING, vllm_gauge("sum", "num_requests_running")),
    _spec(metrics.REQUESTS_WAITING, vllm_gauge("sum", "num_requests_waiting")),
    _spec(metrics.KV_CACHE_USAGE, vllm_gauge("max", "kv_cache_usage_perc")),
    _spec(metrics.TTFT_MEAN, vllm_mean("time_to_first_token_seconds"), span_roles=REPLICA),
    _spec(metrics.INTER_TOKEN_LATENCY_MEAN, vllm_mean("inter_token_latency_seconds"), span_roles=REPLICA),
    _spec(metrics.QUEUE_TIME_MEAN, vllm_mean("request_queue_time_seconds"), span_roles=REPLICA),
    _spec(metrics.PREFILL_TIME_MEAN, vllm_mean("request_prefill_time_seconds"), span_roles=REPLICA),
    _spec(metrics.DECODE_TIME_MEAN, vllm_mean("request_decode_time_seconds"), span_roles=REPLICA),
    _spec(metrics.E2E_LATENCY_MEAN, vllm_mean("e2e_request_latency_seconds"), span_roles=REPLICA),
    _spec(metrics.GENERATION_TOKENS_RATE, vllm_rate("generation_tokens_total")),
    _spec(metrics.PROMPT_TOKENS_RATE, vllm_rate("prompt_tokens_total")),
    _spec(metrics.PREEMPTIONS_RATE, vllm_late_rate("num_preemptions_total", "num_requests_running")),
    _spec(
        metrics.SERVE_ONGOING_REQUESTS,
        everywhere("ray_serve", held("sum", REPLICA_WITNESS), REPLICA),
        by_proxy(held("sum", HTTP_WITNESS)),
    ),
    _spec(metrics.SERVE_QUEUED_REQUESTS, by_proxy(held("sum", "ray_serve_deployment_queued_queries"))),
    _spec(
        metrics.SERVE_PROCESSING_LATENCY_MEAN,
        everywhere("ray_serve", _PROCESSING[0], REPLICA, divisor=_PROCESSING[1]),
        by_proxy(*milliseconds_mean("ray_serve_http_request_latency_ms")),
        span_roles=HEAD | REPLICA,
    ),
    _spec(
        metrics.SERVE_HEALTHY_REPLICAS,
        everywhere("ray_serve", held("sum", "ray_serve_deployment_replica_healthy"), HEAD),
    ),
    _spec(
        metrics.REQUEST_RATE,
        everywhere("ray_serve", rate("ray_serve_deployment_request_counter_total"), REPLICA),
        by_proxy(rate("ray_serve_num_http_requests_total")),
        waypoint_requests(),
        span_roles=GATEWAY,
    ),
    _spec(
        metrics.ERROR_RATE,
        everywhere(
            "ray_serve",
            ray_late_counter_rate("ray_serve_deployment_error_counter_total", REPLICA_WITNESS),
            REPLICA,
        ),
        by_proxy(ray_late_counter_rate("ray_serve_num_http_error_requests_total", HTTP_WITNESS)),
        waypoint_errors(),
        span_roles=GATEWAY,
    ),
)

SPECS: dict[str, MetricSpec] = {spec.name: spec for spec in METRIC_MAP}

if _unfilled := METRICS.keys() - SPECS.keys():
    raise ValueError(f"METRIC_MAP does not say how to fill {', '.join(sorted(_unfilled))}, which tasks.metrics names")


def expected_services(spec: MetricSpec, roles: Mapping[str, Role], units: Units, gpus: bool = True) -> tuple[str, ...]:
    """Return the services that should have the metric when they are made of ``units``, with or without GPUs."""
    wanted = spec.roles_of(units, gpus)
    return tuple(service for service, role in roles.items() if role in wanted)


def missing_metrics(
    found: Collection[tuple[str, str]],
    roles: Mapping[str, Role],
    units: Units,
    gpus: bool = True,
) -> dict[str, tuple[str, ...]]:
    """Return the canonical metrics without any sample: metric -> services that lack it.

    Args:
        found: ``(metric, service)`` pairs that have samples.
        roles: service -> role, for every service of the stack.
    """
    lacking = {
        spec.name: tuple(s for s in expected_services(spec, roles, units, gpus) if (spec.name, s) not in found)
        for spec in METRIC_MAP
    }
    return {name: services for name, services in lacking.items() if services}


def explain_missing(missing: Mapping[str, Iterable[str]], units: Units, gpus: bool = True) -> list[str]:
    """Return one line per metric of ``missing_metrics`` or ``absent_metrics``, naming the series that would fill it."""
    lines = []
    for name, services in missing.items():
        variants = SPECS[name].variants_of(units, gpus)
        choices = list(dict.fromkeys(" with ".join(variant.series) for variant in variants))
        if SPECS[name].span_roles:
            choices.insert(0, "spans")
        notes = list(dict.fromkeys(NOTES[series] for v in variants for series in v.series if series in NOTES))
        remark = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"{name} of {', '.join(services)}: needs {', or '.join(choices)}{remark}")
    return lines


def absent_metrics(
    series: Collection[str], roles: Mapping[str, Role], units: Units, gpus: bool = True
) -> dict[str, tuple[str, ...]]:
    """Return the canonical metrics that series of these names cannot fill: metric -> services that would lack it.

    Checks a Prometheus before the stack is up: metrics from spans are not reported, nor those of Ray
    and vLLM, which export nothing before they run.
    """
    found = {
        (spec.name, service)
        for spec in METRIC_MAP
        for service, role in roles.items()
        if role in spec.span_roles
        or any(
            role in variant.roles and (all(name in series for name in variant.series) or _needs_a_stack(variant))
            for variant in spec.variants_of(units, gpus)
        )
    }
    return missing_metrics(found, roles, units, gpus=gpus)


def _needs_a_stack(variant: Variant) -> bool:
    return variant.source in ("ray_vllm", "vllm", "ray_serve")
