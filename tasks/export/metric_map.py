"""Which series make up each canonical metric.

A canonical metric has one name and one unit whatever stack it was seen on. Each has an ordered list of variants; for
each service the first variant that answers is used and named in the column ``source``. ``vllm:*`` is what vLLM exports
itself, ``ray_vllm_*`` what it exports through Ray. Every series must carry the label ``service``.

Two habits of Ray's exporter shape the queries. It drops a gauge two seconds after it was last set, so the last value
is held while the target is up. It rebuilds histograms from the middles of their buckets, so a mean of 30 microseconds
comes out as 150 milliseconds: means are derived from spans where there are any, and from histograms only elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.stack import Role

METRIC_MAP_VERSION = 1

Profile = Literal["paper", "llm"]

ALL_ROLES: frozenset[Role] = frozenset({"gateway", "head", "replica"})
GATEWAY_ONLY: frozenset[Role] = frozenset({"gateway"})
HEAD_ONLY: frozenset[Role] = frozenset({"head"})
REPLICA_ONLY: frozenset[Role] = frozenset({"replica"})
ALL_BACKENDS: frozenset[str] = frozenset({"local", "kubernetes"})

RAY_GAUGE_HOLD_S = 30
"""Ray Serve's controller sets its gauges every ten seconds, vLLM only while it has requests."""

SPANS_SOURCE = "spans"
"""Source of the metrics that ``tasks.export.span_metrics`` derives from spans."""


@dataclass(frozen=True)
class Variant:
    """One way to get a metric from Prometheus; ``$window`` stands for the rate window, ``$window_s`` for its length."""

    source: str
    promql: str
    roles: frozenset[Role] = ALL_ROLES
    backends: frozenset[str] = ALL_BACKENDS

    def query(self, window_s: float) -> str:
        return self.promql.replace("$window_s", f"{window_s:g}").replace("$window", f"{round(window_s * 1000)}ms")


@dataclass(frozen=True)
class MetricSpec:
    """A canonical metric. ``span_roles``: the services for which it is derived from spans if there are any; only where
    there are none are the variants asked."""

    name: str
    unit: str
    profile: Profile
    variants: tuple[Variant, ...] = ()
    span_roles: frozenset[Role] = frozenset()

    @property
    def roles(self) -> frozenset[Role]:
        """The services that are expected to have the metric."""
        return self.span_roles.union(*(variant.roles for variant in self.variants))


def _rate(series: str) -> str:
    return f"sum by (service) (rate({series}[$window]))"


def _cgroup(promql: str, **keywords: frozenset[str]) -> Variant:
    return Variant("cgroup", promql, **keywords)  # type: ignore[arg-type]


def _vllm(template: str) -> tuple[Variant, ...]:
    """``{p}`` in the template is the prefix of vLLM's names: through Ray, or by vLLM itself."""
    return tuple(
        Variant(source, template.replace("{p}", prefix), REPLICA_ONLY)
        for source, prefix in (("ray_vllm", "ray_vllm_"), ("vllm", "vllm:"))
    )


def _vllm_mean(histogram: str) -> tuple[Variant, ...]:
    """Mean of the observations in the window; NaN when there were none."""
    return _vllm(f"{_rate(f'{{p}}{histogram}_sum')} / {_rate(f'{{p}}{histogram}_count')}")


def _vllm_gauge(aggregation: str, gauge: str) -> tuple[Variant, ...]:
    return (
        Variant("ray_vllm", _held(aggregation, f"ray_vllm_{gauge}"), REPLICA_ONLY),
        Variant("vllm", f"{aggregation} by (service) (vllm:{gauge})", REPLICA_ONLY),
    )


def _held(aggregation: str, gauge: str, offset: str = "") -> str:
    """Last value of a gauge that Ray stops exporting while it does not change, as long as its target is up."""
    value = f"{aggregation} by (service) (last_over_time({gauge}[{RAY_GAUGE_HOLD_S}s]{offset}))"
    return f'({value} and on (service) (max by (service) (up{{job="ray"}}{offset}) == 1))'


def _late_counter_rate(counter: str, zero: str, zero_before: str) -> str:
    """Rate of a counter that is exported only once it is above zero, as Ray's are.

    Where ``zero`` (zero times a gauge of the same target) has samples the counter is known to be zero before it
    appears, so its first increments count and silence means zero. ``rate()`` would lose both.
    """
    now, before = f"sum by (service) ({counter})", f"sum by (service) ({counter} offset $window)"
    return f"clamp_min(({now} - ({before} or {zero_before})) / $window_s, 0) or {zero}"


def _ray_late_counter_rate(counter: str, witness: str) -> str:
    return _late_counter_rate(
        counter, f"0 * {_held('sum', witness)}", f"0 * {_held('sum', witness, ' offset $window')}"
    )


def _serve_mean(histogram: str) -> str:
    return f"{_rate(f'{histogram}_sum')} / {_rate(f'{histogram}_count')} / 1000"


_HTTP_WITNESS = "ray_serve_num_ongoing_http_requests"
_REPLICA_WITNESS = "ray_serve_replica_processing_queries"

METRIC_MAP: tuple[MetricSpec, ...] = (
    MetricSpec("cpu_usage", "cores", "paper", (_cgroup(_rate("container_cpu_usage_seconds_total")),)),
    MetricSpec(
        "memory_working_set", "bytes", "paper", (_cgroup("sum by (service) (container_memory_working_set_bytes)"),)
    ),
    MetricSpec("network_receive", "bytes/s", "paper", (_cgroup(_rate("container_network_receive_bytes_total")),)),
    MetricSpec("network_transmit", "bytes/s", "paper", (_cgroup(_rate("container_network_transmit_bytes_total")),)),
    MetricSpec(
        "accelerator_utilization",
        "ratio",
        "paper",
        (
            # The local accelerator is the CPU quota of the engine's cgroup: use of what the quota grants.
            _cgroup(
                f"{_rate('container_cpu_usage_seconds_total')}"
                " / sum by (service) (container_spec_cpu_quota / container_spec_cpu_period)",
                roles=REPLICA_ONLY,
                backends=frozenset({"local"}),
            ),
        ),
    ),
    MetricSpec("latency_p50", "s", "paper", span_roles=ALL_ROLES),
    MetricSpec("latency_p90", "s", "paper", span_roles=ALL_ROLES),
    MetricSpec("cpu_throttled", "s/s", "llm", (_cgroup(_rate("container_cpu_cfs_throttled_seconds_total")),)),
    MetricSpec("memory_rss", "bytes", "llm", (_cgroup("sum by (service) (container_memory_rss)"),)),
    MetricSpec("memory_limit_hits", "events/s", "llm", (_cgroup(_rate("container_memory_failcnt")),)),
    MetricSpec("processes", "processes", "llm", (_cgroup("sum by (service) (container_processes)"),)),
    MetricSpec(
        "network_dropped",
        "packets/s",
        "llm",
        (
            _cgroup(
                f"{_rate('container_network_receive_packets_dropped_total')}"
                f" + {_rate('container_network_transmit_packets_dropped_total')}"
            ),
        ),
    ),
    MetricSpec("requests_running", "requests", "llm", _vllm_gauge("sum", "num_requests_running")),
    MetricSpec("requests_waiting", "requests", "llm", _vllm_gauge("sum", "num_requests_waiting")),
    MetricSpec("kv_cache_usage", "ratio", "llm", _vllm_gauge("max", "kv_cache_usage_perc")),
    MetricSpec("ttft_mean", "s", "llm", _vllm_mean("time_to_first_token_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec(
        "inter_token_latency_mean", "s", "llm", _vllm_mean("inter_token_latency_seconds"), span_roles=REPLICA_ONLY
    ),
    MetricSpec("queue_time_mean", "s", "llm", _vllm_mean("request_queue_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("prefill_time_mean", "s", "llm", _vllm_mean("request_prefill_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("decode_time_mean", "s", "llm", _vllm_mean("request_decode_time_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("e2e_latency_mean", "s", "llm", _vllm_mean("e2e_request_latency_seconds"), span_roles=REPLICA_ONLY),
    MetricSpec("generation_tokens_rate", "tokens/s", "llm", _vllm(_rate("{p}generation_tokens_total"))),
    MetricSpec("prompt_tokens_rate", "tokens/s", "llm", _vllm(_rate("{p}prompt_tokens_total"))),
    MetricSpec(
        "preemptions_rate",
        "preemptions/s",
        "llm",
        (
            Variant(
                "ray_vllm",
                _ray_late_counter_rate("ray_vllm_num_preemptions_total", "ray_vllm_num_requests_running"),
                REPLICA_ONLY,
            ),
            Variant("vllm", _rate("vllm:num_preemptions_total"), REPLICA_ONLY),
        ),
    ),
    MetricSpec(
        "serve_ongoing_requests",
        "requests",
        "llm",
        (
            Variant("ray_serve", _held("sum", _HTTP_WITNESS), HEAD_ONLY),
            Variant("ray_serve", _held("sum", _REPLICA_WITNESS), REPLICA_ONLY),
        ),
    ),
    MetricSpec(
        "serve_queued_requests",
        "requests",
        "llm",
        (Variant("ray_serve", _held("sum", "ray_serve_deployment_queued_queries"), HEAD_ONLY),),
    ),
    MetricSpec(
        "serve_processing_latency_mean",
        "s",
        "llm",
        (
            Variant("ray_serve", _serve_mean("ray_serve_http_request_latency_ms"), HEAD_ONLY),
            Variant("ray_serve", _serve_mean("ray_serve_deployment_processing_latency_ms"), REPLICA_ONLY),
        ),
        span_roles=HEAD_ONLY | REPLICA_ONLY,
    ),
    MetricSpec(
        "serve_healthy_replicas",
        "replicas",
        "llm",
        (Variant("ray_serve", _held("sum", "ray_serve_deployment_replica_healthy"), HEAD_ONLY),),
    ),
    MetricSpec(
        "request_rate",
        "requests/s",
        "llm",
        (
            Variant("ray_serve", _rate("ray_serve_num_http_requests_total"), HEAD_ONLY),
            Variant("ray_serve", _rate("ray_serve_deployment_request_counter_total"), REPLICA_ONLY),
        ),
        span_roles=GATEWAY_ONLY,
    ),
    MetricSpec(
        "error_rate",
        "requests/s",
        "llm",
        (
            Variant(
                "ray_serve",
                _ray_late_counter_rate("ray_serve_num_http_error_requests_total", _HTTP_WITNESS),
                HEAD_ONLY,
            ),
            Variant(
                "ray_serve",
                _ray_late_counter_rate("ray_serve_deployment_error_counter_total", _REPLICA_WITNESS),
                REPLICA_ONLY,
            ),
        ),
        span_roles=GATEWAY_ONLY,
    ),
)

SPECS: dict[str, MetricSpec] = {spec.name: spec for spec in METRIC_MAP}


def metric_names(profile: Profile) -> tuple[str, ...]:
    """Metrics that a method may see under ``profile``; ``llm`` includes ``paper``."""
    return tuple(spec.name for spec in METRIC_MAP if profile == "llm" or spec.profile == "paper")


def expected_services(spec: MetricSpec, roles: Mapping[str, Role], backend: str) -> tuple[str, ...]:
    """Services of the stack that should have the metric on this backend."""
    wanted = spec.span_roles.union(*(v.roles for v in spec.variants if backend in v.backends))
    return tuple(service for service, role in roles.items() if role in wanted)


def missing_metrics(
    found: Collection[tuple[str, str]],
    roles: Mapping[str, Role],
    backend: str,
    specs: Iterable[MetricSpec] = METRIC_MAP,
) -> dict[str, tuple[str, ...]]:
    """Canonical metrics without any sample: metric -> services that lack it.

    Args:
        found: ``(metric, service)`` pairs that have samples.
        roles: service -> role, for every service of the stack.
    """
    lacking = {
        spec.name: tuple(s for s in expected_services(spec, roles, backend) if (spec.name, s) not in found)
        for spec in specs
    }
    return {name: services for name, services in lacking.items() if services}
