"""Series that stacks of others have: per family of exporters, the candidates for each canonical metric.

The table holds names, not code: a family that gets a name more is a row more. Names are those that the exporters
document: vLLM 0.8 to 0.33 (engine V1; also through Ray), SGLang 0.4 and 0.5, text-generation-inference 2 and 3,
cAdvisor for pods and for Docker, kube-state-metrics, node_exporter 1, the client libraries' own ``process_*``,
dcgm-exporter 3 and 4, Istio, Envoy, ingress-nginx, nginx-prometheus-exporter, the router of the vLLM production stack,
and the endpoint picker of the Gateway API inference extension (llm-d).

Order is preference: for each service the first candidate that answers is used. Ray's figures of a node come before
``process_*``, which on its endpoint are those of Ray's agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks import metrics
from tasks.export.queries.promql import Combine, Variant
from tasks.export.queries.series_names import RAY_VLLM_PREFIXES, VLLM_PREFIX, vllm_names
from tasks.metrics import ALL_ROLES, GATEWAY, HEAD, REPLICA, Metric, Source
from tasks.stack import Role

Kind = Literal["gauge", "rate", "mean", "p50", "p90", "held", "up", "listens"]
"""``mean`` and quantiles are of a histogram. ``held``: a gauge that Ray exports only while it is set. ``up``: whether
the target of the series answers Prometheus. ``listens``: the same, nothing where it takes time not to answer: a process
that is gone refuses at once."""

ANY: frozenset[Role] = ALL_ROLES | {"service"}
BEHIND_A_GATEWAY = GATEWAY | HEAD
MIB = 2.0**20
KNOWN = "1h"
"""A target is known by its series for so long after it last answered."""
REFUSES_S = 0.5
"""Nothing listens where a scrape fails sooner."""
EXPORTERS = '{__name__=~"[a-z_]*exporter_build_info|cadvisor_version_info"}'


@dataclass(frozen=True)
class Candidate:
    """Series that fill a metric.

    Args:
        family: the exporter, for people.
        series: name of the series; of a histogram without ``_sum``, ``_count``, ``_bucket``.
        matchers: PromQL.
        scale: from the series' unit to the metric's.
        each: a label that distinguishes series of one service: the largest per value counts, so that a target scraped
            twice does not double a value.
        unit: a label that tells the units of a service apart, such as its GPUs, which ``combine`` combines.
        minus, times: the name of a gauge that is subtracted, that it is multiplied by.
        own: series of exporters are left out, which tell of the exporter and not of the service beside it.
    """

    metric: Metric
    family: str
    source: Source
    kind: Kind
    series: str
    roles: frozenset[Role]
    matchers: str = ""
    scale: float = 1.0
    combine: Combine = "sum"
    each: str = ""
    unit: str = ""
    minus: str = ""
    times: str = ""
    optional: bool = False
    own: bool = False

    @property
    def told(self) -> str:
        """What it reads, for people (Markdown)."""
        of_targets = self.kind in ("up", "listens")
        return f"`up` of targets with `{self.series}`" if of_targets else f"`{self.series}`"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return the queries. A ``service`` (neither gateway, head nor replica) is never expected to have a metric."""
        expected = self.roles & self.metric.roles
        found = [self._variant(expected, self.optional)] if expected else []
        others = self.roles - expected
        return (*found, self._variant(others, True)) if others else tuple(found)

    def _variant(self, roles: frozenset[Role], optional: bool) -> Variant:
        quantile = {"p50": 0.5, "p90": 0.9}.get(self.kind)
        return Variant(
            source=self.source,
            promql=self._promql(),
            roles=roles,
            join="labels",
            combine=self.combine,
            divisor=self._divisor(),
            quantile=quantile,
            scale=self.scale,
            optional=optional,
        )

    def _selector(self, ending: str = "", name: str = "") -> str:
        matchers = f",{self.matchers}" if self.matchers else ""
        return f"{name or self.series}{ending}{{$scope{matchers}}}"

    def _promql(self) -> str:
        match self.kind:
            case "gauge":
                value = self._selector() + (f" - {self._selector(name=self.minus)}" if self.minus else "")
            case "held":
                value = f"last_over_time({self._selector()}[$hold])"
            case "rate":
                value = f"rate({self._selector()}[$window])"
            case "mean":
                value = f"rate({self._selector('_sum')}[$window])"
            case "up" | "listens":
                value = self._up()
            case "p50" | "p90":
                return f"sum by (le, $by) (rate({self._selector('_bucket')}[$window]))"
        if self.own:
            value = f"({value} unless on (instance) {EXPORTERS})"
        inner = f"max by ($by, {self.each}) ({value})" if self.each else value
        by = f"$by, {self.unit}" if self.unit else "$by"
        whole = f"{'max' if self.combine == 'max' else 'sum'} by ({by}) ({inner})"
        return f"{whole} * sum by ($by) ({self._selector(name=self.times)})" if self.times else whole

    def _up(self) -> str:
        """Targets that had the series: ``up`` tells of exporters, too."""
        value, targets = self._selector(name="up"), f"on (job, instance) last_over_time({self._selector()}[{KNOWN}])"
        if self.kind == "listens":
            soon = f"on (job, instance) {self._selector(name='scrape_duration_seconds')} < {REFUSES_S}"
            value = f"({value} == 1 or {value} and {soon})"
        return f"{value} and {targets}"

    def _divisor(self) -> str:
        return f"sum by ($by) (rate({self._selector('_count')}[$window]))" if self.kind == "mean" else ""


def _vllm(metric: Metric, kind: Kind, name: str, combine: Combine = "sum") -> list[Candidate]:
    """Return vLLM's own series and those that Ray exports for it, newer names first."""
    found = []
    for known in vllm_names(name):
        for prefix in (VLLM_PREFIX, *RAY_VLLM_PREFIXES):
            by_ray = prefix is not VLLM_PREFIX
            found.append(
                Candidate(
                    metric=metric,
                    family="vLLM through Ray" if by_ray else "vLLM",
                    source="ray_vllm" if by_ray else "vllm",
                    kind="held" if by_ray and kind == "gauge" else kind,
                    series=f"{prefix.name}{known}",
                    roles=REPLICA & metric.roles,
                    combine=combine,
                )
            )
    return found


def _sglang(metric: Metric, kind: Kind, name: str, combine: Combine = "sum") -> Candidate:
    return Candidate(metric, "SGLang", "sglang", kind, f"sglang:{name}", REPLICA, combine=combine)


def _tgi(metric: Metric, kind: Kind, name: str, matchers: str = "", combine: Combine = "sum") -> Candidate:
    return Candidate(metric, "TGI", "tgi", kind, f"tgi_{name}", REPLICA, matchers, combine=combine)


def _pod(metric: Metric, kind: Kind, series: str, matchers: str = "", each: str = "container") -> Candidate:
    own = {"container": 'container!="",container!="POD"', "interface": 'pod!="",interface!="lo"'}.get(each, "")
    both = ",".join(filter(None, (own, matchers)))
    return Candidate(metric, "cAdvisor (pods)", "cadvisor", kind, series, ANY, both, each=each)


def _docker(metric: Metric, kind: Kind, series: str, matchers: str = "") -> Candidate:
    """Return cAdvisor's series of a Docker container, which carry its ``name``."""
    own = ",".join(filter(None, ('container="",name!=""', matchers)))
    return Candidate(metric, "cAdvisor (Docker)", "cadvisor", kind, series, ANY, own)


def _cgroup(metric: Metric, kind: Kind, series: str) -> Candidate:
    """Return cAdvisor's series of a cgroup that is neither a pod's container nor one of Docker: a systemd unit."""
    return Candidate(metric, "cAdvisor (cgroups)", "cgroup", kind, series, ANY, 'container="",name=""', each="id")


def _kube(metric: Metric, kind: Kind, series: str, matchers: str = "") -> Candidate:
    each = "container" if "container" in series else ""
    return Candidate(metric, "kube-state-metrics", "kube_state", kind, series, ANY, matchers, each=each, optional=True)


def _node(metric: Metric, kind: Kind, series: str, matchers: str = "", minus: str = "") -> Candidate:
    return Candidate(metric, "node exporter", "node", kind, series, ANY, matchers, minus=minus)


def _process(metric: Metric, kind: Kind, series: str) -> Candidate:
    return Candidate(metric, "client library", "process", kind, series, ANY, own=True)


def _target(metric: Metric, kind: Kind, series: str) -> Candidate:
    """Return whether an engine answers Prometheus, told by a series that it exports itself."""
    return Candidate(metric, "Prometheus", "prometheus", kind, series, REPLICA, combine="max", optional=True)


_ENGINES = ("vllm:num_requests_running", "sglang:num_running_reqs", "tgi_queue_size")


def _dcgm(
    metric: Metric, kind: Kind, field: str, combine: Combine, scale: float = 1.0, matchers: str = ""
) -> Candidate:
    each = "clock_event, UUID" if "clock_event" in matchers else ""
    return Candidate(
        metric, "DCGM", "dcgm", kind, field, REPLICA, matchers, scale, combine, each=each, unit="UUID", optional=True
    )


def _serve(metric: Metric, kind: Kind, series: str, roles: frozenset[Role], scale: float = 1.0) -> Candidate:
    return Candidate(metric, "Ray Serve", "ray_serve", kind, series, roles, scale=scale, optional=True)


def _ray(metric: Metric, series: str, scale: float = 1.0, times: str = "") -> Candidate:
    roles = HEAD | REPLICA if metric.roles > REPLICA else REPLICA
    return Candidate(metric, "Ray", "ray_node", "gauge", series, roles, scale=scale, times=times, optional=True)


def _edge(
    metric: Metric, family: str, source: Source, kind: Kind, series: str, matchers: str = "", scale: float = 1.0
) -> Candidate:
    """Return a series of what stands before the engines, as the exporter of the gateway itself gives it."""
    return Candidate(metric, family, source, kind, series, BEHIND_A_GATEWAY, matchers, scale, optional=True)


_LATENCIES: tuple[tuple[Metric, Kind], ...] = ((metrics.LATENCY_P50, "p50"), (metrics.LATENCY_P90, "p90"))


def _latency(metric: Metric, kind: Kind) -> Iterable[Candidate]:
    yield _edge(metric, "Istio", "istio", kind, "istio_request_duration_milliseconds", 'reporter!="source"', scale=1e-3)
    yield _edge(metric, "Envoy", "envoy", kind, "envoy_http_downstream_rq_time", scale=1e-3)
    yield _edge(metric, "ingress-nginx", "nginx", kind, "nginx_ingress_controller_request_duration_seconds")
    yield _edge(metric, "inference gateway", "inference_gateway", kind, "inference_objective_request_duration_seconds")
    yield _edge(metric, "inference gateway", "inference_gateway", kind, "inference_model_request_duration_seconds")
    yield _edge(metric, "Ray Serve", "ray_serve", kind, "ray_serve_http_request_latency_ms", scale=1e-3)
    yield from _vllm(metric, kind, "e2e_request_latency_seconds")
    yield _sglang(metric, kind, "e2e_request_latency_seconds")
    yield _tgi(metric, kind, "request_duration")


_BROKEN = 'reporter!="source",response_code=~"5..|0"'
_RECEIVED, _SENT = "container_network_receive_bytes_total", "container_network_transmit_bytes_total"

CANDIDATES: tuple[Candidate, ...] = (
    _pod(metrics.CPU_USAGE, "rate", "container_cpu_usage_seconds_total"),
    _docker(metrics.CPU_USAGE, "rate", "container_cpu_usage_seconds_total"),
    _cgroup(metrics.CPU_USAGE, "rate", "container_cpu_usage_seconds_total"),
    _ray(metrics.CPU_USAGE, "ray_node_cpu_utilization", 1e-2, "ray_node_cpu_count"),
    _process(metrics.CPU_USAGE, "rate", "process_cpu_seconds_total"),
    _node(metrics.CPU_USAGE, "rate", "node_cpu_seconds_total", 'mode!~"idle|iowait"'),
    _pod(metrics.MEMORY_WORKING_SET, "gauge", "container_memory_working_set_bytes"),
    _docker(metrics.MEMORY_WORKING_SET, "gauge", "container_memory_working_set_bytes"),
    _cgroup(metrics.MEMORY_WORKING_SET, "gauge", "container_memory_working_set_bytes"),
    _ray(metrics.MEMORY_WORKING_SET, "ray_node_mem_used"),
    _process(metrics.MEMORY_WORKING_SET, "gauge", "process_resident_memory_bytes"),
    _node(metrics.MEMORY_WORKING_SET, "gauge", "node_memory_MemTotal_bytes", minus="node_memory_MemAvailable_bytes"),
    _pod(metrics.MEMORY_RSS, "gauge", "container_memory_rss"),
    _docker(metrics.MEMORY_RSS, "gauge", "container_memory_rss"),
    _cgroup(metrics.MEMORY_RSS, "gauge", "container_memory_rss"),
    _process(metrics.MEMORY_RSS, "gauge", "process_resident_memory_bytes"),
    _pod(metrics.NETWORK_RECEIVE, "rate", _RECEIVED, each="interface"),
    _docker(metrics.NETWORK_RECEIVE, "rate", _RECEIVED, 'interface!="lo"'),
    _cgroup(metrics.NETWORK_RECEIVE, "rate", _RECEIVED),
    _ray(metrics.NETWORK_RECEIVE, "ray_node_network_receive_speed"),
    _process(metrics.NETWORK_RECEIVE, "rate", "process_network_receive_bytes_total"),
    _node(metrics.NETWORK_RECEIVE, "rate", "node_network_receive_bytes_total", 'device!="lo"'),
    _pod(metrics.NETWORK_TRANSMIT, "rate", _SENT, each="interface"),
    _docker(metrics.NETWORK_TRANSMIT, "rate", _SENT, 'interface!="lo"'),
    _cgroup(metrics.NETWORK_TRANSMIT, "rate", _SENT),
    _ray(metrics.NETWORK_TRANSMIT, "ray_node_network_send_speed"),
    _process(metrics.NETWORK_TRANSMIT, "rate", "process_network_transmit_bytes_total"),
    _node(metrics.NETWORK_TRANSMIT, "rate", "node_network_transmit_bytes_total", 'device!="lo"'),
    _pod(metrics.CPU_THROTTLED, "rate", "container_cpu_cfs_throttled_seconds_total"),
    _docker(metrics.CPU_THROTTLED, "rate", "container_cpu_cfs_throttled_seconds_total"),
    _pod(metrics.MEMORY_LIMIT_HITS, "rate", "container_memory_failcnt"),
    _docker(metrics.MEMORY_LIMIT_HITS, "rate", "container_memory_failcnt"),
    _pod(metrics.PROCESSES, "gauge", "container_processes"),
    _docker(metrics.PROCESSES, "gauge", "container_processes"),
    _pod(metrics.NETWORK_DROPPED, "rate", "container_network_receive_packets_dropped_total", each="interface"),
    _node(metrics.NETWORK_DROPPED, "rate", "node_network_receive_drop_total", 'device!="lo"'),
    _cgroup(metrics.CPU_THROTTLED, "rate", "container_cpu_cfs_throttled_seconds_total"),
    _cgroup(metrics.MEMORY_LIMIT_HITS, "rate", "container_memory_failcnt"),
    _cgroup(metrics.PROCESSES, "gauge", "container_processes"),
    *(_target(metrics.PROCESSES, "listens", series) for series in _ENGINES),
    *(_target(metrics.SCRAPE_SUCCESS, "up", series) for series in _ENGINES),
    _node(metrics.NETWORK_RETRANSMITS, "rate", "node_netstat_Tcp_RetransSegs"),
    _kube(metrics.CPU_LIMIT, "gauge", "kube_pod_container_resource_limits", 'resource="cpu"'),
    _kube(metrics.MEMORY_LIMIT, "gauge", "kube_pod_container_resource_limits", 'resource="memory"'),
    _kube(metrics.RESTARTS_RATE, "rate", "kube_pod_container_status_restarts_total"),
    _kube(metrics.PODS_RUNNING, "gauge", "kube_pod_status_phase", 'phase="Running"'),
    _kube(metrics.PODS_READY, "gauge", "kube_pod_status_ready", 'condition="true"'),
    _dcgm(metrics.ACCELERATOR_UTILIZATION, "gauge", "DCGM_FI_DEV_GPU_UTIL", "mean", 1e-2),
    _dcgm(metrics.ACCELERATOR_UTILIZATION, "gauge", "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "mean"),
    _ray(metrics.ACCELERATOR_UTILIZATION, "ray_node_gpus_utilization", 1e-2),
    _dcgm(metrics.GPU_SM_CLOCK, "gauge", "DCGM_FI_DEV_SM_CLOCK", "mean"),
    _dcgm(metrics.GPU_SM_ACTIVE, "gauge", "DCGM_FI_PROF_SM_ACTIVE", "mean"),
    _dcgm(metrics.GPU_TEMPERATURE, "gauge", "DCGM_FI_DEV_GPU_TEMP", "max"),
    _dcgm(metrics.GPU_POWER, "gauge", "DCGM_FI_DEV_POWER_USAGE", "sum"),
    _dcgm(metrics.GPU_POWER_LIMIT, "gauge", "DCGM_FI_DEV_POWER_MGMT_LIMIT", "sum"),
    _dcgm(metrics.GPU_POWER_LIMIT, "gauge", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "sum"),
    _dcgm(metrics.GPU_POWER_VIOLATION, "rate", "DCGM_FI_DEV_POWER_VIOLATION", "max", 1e-9),
    _dcgm(metrics.GPU_THERMAL_VIOLATION, "rate", "DCGM_FI_DEV_THERMAL_VIOLATION", "max", 1e-9),
    _dcgm(metrics.GPU_CLOCK_EVENTS, "gauge", "DCGM_EXP_CLOCK_EVENTS_COUNT", "sum", 1.0, 'clock_event!="gpu_idle"'),
    _dcgm(metrics.GPU_MEMORY_USED, "gauge", "DCGM_FI_DEV_FB_USED", "sum", MIB),
    _dcgm(metrics.GPU_LAST_XID, "gauge", "DCGM_FI_DEV_XID_ERRORS", "max"),
    *_vllm(metrics.REQUESTS_RUNNING, "gauge", "num_requests_running"),
    _sglang(metrics.REQUESTS_RUNNING, "gauge", "num_running_reqs"),
    _tgi(metrics.REQUESTS_RUNNING, "gauge", "batch_current_size"),
    *_vllm(metrics.REQUESTS_WAITING, "gauge", "num_requests_waiting"),
    _sglang(metrics.REQUESTS_WAITING, "gauge", "num_queue_reqs"),
    _tgi(metrics.REQUESTS_WAITING, "gauge", "queue_size"),
    *_vllm(metrics.KV_CACHE_USAGE, "gauge", "kv_cache_usage_perc", "max"),
    _sglang(metrics.KV_CACHE_USAGE, "gauge", "token_usage", "max"),
    *_vllm(metrics.TTFT_MEAN, "mean", "time_to_first_token_seconds"),
    _sglang(metrics.TTFT_MEAN, "mean", "time_to_first_token_seconds"),
    *_vllm(metrics.INTER_TOKEN_LATENCY_MEAN, "mean", "inter_token_latency_seconds"),
    _sglang(metrics.INTER_TOKEN_LATENCY_MEAN, "mean", "inter_token_latency_seconds"),
    _sglang(metrics.INTER_TOKEN_LATENCY_MEAN, "mean", "time_per_output_token_seconds"),
    _tgi(metrics.INTER_TOKEN_LATENCY_MEAN, "mean", "request_mean_time_per_token_duration"),
    *_vllm(metrics.QUEUE_TIME_MEAN, "mean", "request_queue_time_seconds"),
    _sglang(metrics.QUEUE_TIME_MEAN, "mean", "queue_time_seconds"),
    _tgi(metrics.QUEUE_TIME_MEAN, "mean", "request_queue_duration"),
    *_vllm(metrics.PREFILL_TIME_MEAN, "mean", "request_prefill_time_seconds"),
    _tgi(metrics.PREFILL_TIME_MEAN, "mean", "batch_inference_duration", 'method="prefill"'),
    *_vllm(metrics.DECODE_TIME_MEAN, "mean", "request_decode_time_seconds"),
    *_vllm(metrics.E2E_LATENCY_MEAN, "mean", "e2e_request_latency_seconds"),
    _sglang(metrics.E2E_LATENCY_MEAN, "mean", "e2e_request_latency_seconds"),
    _tgi(metrics.E2E_LATENCY_MEAN, "mean", "request_duration"),
    *_vllm(metrics.GENERATION_TOKENS_RATE, "rate", "generation_tokens_total"),
    _sglang(metrics.GENERATION_TOKENS_RATE, "rate", "generation_tokens_total"),
    _tgi(metrics.GENERATION_TOKENS_RATE, "rate", "request_generated_tokens_sum"),
    *_vllm(metrics.PROMPT_TOKENS_RATE, "rate", "prompt_tokens_total"),
    _sglang(metrics.PROMPT_TOKENS_RATE, "rate", "prompt_tokens_total"),
    _tgi(metrics.PROMPT_TOKENS_RATE, "rate", "request_input_length_sum"),
    *_vllm(metrics.PREEMPTIONS_RATE, "rate", "num_preemptions_total"),
    _serve(metrics.SERVE_ONGOING_REQUESTS, "held", "ray_serve_replica_processing_queries", REPLICA),
    _serve(metrics.SERVE_ONGOING_REQUESTS, "held", "ray_serve_num_ongoing_http_requests", HEAD),
    _serve(metrics.SERVE_QUEUED_REQUESTS, "held", "ray_serve_deployment_queued_queries", HEAD),
    _serve(
        metrics.SERVE_PROCESSING_LATENCY_MEAN, "mean", "ray_serve_deployment_processing_latency_ms", REPLICA, scale=1e-3
    ),
    _serve(metrics.SERVE_PROCESSING_LATENCY_MEAN, "mean", "ray_serve_http_request_latency_ms", HEAD, scale=1e-3),
    _serve(metrics.SERVE_HEALTHY_REPLICAS, "held", "ray_serve_deployment_replica_healthy", HEAD),
    _serve(metrics.REQUEST_RATE, "rate", "ray_serve_deployment_request_counter_total", REPLICA),
    _serve(metrics.REQUEST_RATE, "rate", "ray_serve_num_http_requests_total", HEAD),
    *_vllm(metrics.REQUEST_RATE, "rate", "e2e_request_latency_seconds_count"),
    _sglang(metrics.REQUEST_RATE, "rate", "num_requests_total"),
    _tgi(metrics.REQUEST_RATE, "rate", "request_count"),
    _edge(metrics.REQUEST_RATE, "Istio", "istio", "rate", "istio_requests_total", 'reporter!="source"'),
    _edge(metrics.REQUEST_RATE, "Envoy", "envoy", "rate", "envoy_http_downstream_rq_total"),
    _edge(metrics.REQUEST_RATE, "ingress-nginx", "nginx", "rate", "nginx_ingress_controller_requests"),
    _edge(metrics.REQUEST_RATE, "NGINX exporter", "nginx", "rate", "nginx_http_requests_total"),
    _edge(metrics.REQUEST_RATE, "inference gateway", "inference_gateway", "rate", "inference_objective_request_total"),
    _edge(metrics.REQUEST_RATE, "inference gateway", "inference_gateway", "rate", "inference_model_request_total"),
    _edge(metrics.REQUEST_RATE, "production-stack router", "vllm_router", "rate", "vllm:num_incoming_requests_total"),
    _serve(metrics.ERROR_RATE, "rate", "ray_serve_deployment_error_counter_total", REPLICA),
    _serve(metrics.ERROR_RATE, "rate", "ray_serve_num_http_error_requests_total", HEAD),
    Candidate(
        metrics.ERROR_RATE, "vLLM", "vllm", "rate", "http_requests_total", REPLICA, 'status=~"5.."', optional=True
    ),
    _tgi(metrics.ERROR_RATE, "rate", "request_failure"),
    _edge(
        metrics.ERROR_RATE,
        "Istio",
        "istio",
        "rate",
        "istio_requests_total",
        'reporter!="source",response_code=~"5..|0"',
    ),
    _edge(metrics.ERROR_RATE, "Envoy", "envoy", "rate", "envoy_http_downstream_rq_xx", 'envoy_response_code_class="5"'),
    _edge(metrics.ERROR_RATE, "ingress-nginx", "nginx", "rate", "nginx_ingress_controller_requests", 'status=~"5.."'),
    _edge(
        metrics.ERROR_RATE, "inference gateway", "inference_gateway", "rate", "inference_objective_request_error_total"
    ),
    _edge(metrics.ERROR_RATE, "inference gateway", "inference_gateway", "rate", "inference_model_request_error_total"),
    *(each for metric, kind in _LATENCIES for each in _latency(metric, kind)),
)

IDENTIFYING: tuple[str, ...] = (
    "up",
    *dict.fromkeys(
        candidate.series + {"mean": "_count", "p50": "_count", "p90": "_count"}.get(candidate.kind, "")
        for candidate in CANDIDATES
        if candidate.metric in (metrics.REQUESTS_RUNNING, metrics.MEMORY_WORKING_SET, metrics.REQUEST_RATE)
    ),
    "kube_pod_info",
)
"""Series that show which services there are: one or two of every family."""


def _by_metric() -> Mapping[Metric, tuple[Variant, ...]]:
    found: dict[Metric, tuple[Variant, ...]] = {}
    for candidate in CANDIDATES:
        found[candidate.metric] = (*found.get(candidate.metric, ()), *candidate.variants)
    return found


LABELLED: Mapping[Metric, tuple[Variant, ...]] = _by_metric()
"""Metric -> queries of it on a stack whose services are told apart by labels."""
