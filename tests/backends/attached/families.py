"""What exporters of several families say of one service, written by hand in the names that they document, as samples of
two minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

T0 = 1_760_000_000
STEP_S = 5
SAMPLES = 25
END = T0 + STEP_S * (SAMPLES - 1)


@dataclass(frozen=True)
class Family:
    """Series of one exporter: ``gauges`` name -> value, ``counters`` name -> increase per second, ``histograms`` name
    -> (observations per second, mean). A name may be followed by labels."""

    gauges: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, tuple[float, float]] = field(default_factory=dict)

    def samples(
        self, labels: dict[str, str], factor: float = 1.0
    ) -> Iterator[tuple[str, str, Callable[[float], float]]]:
        """Yield name, labels and value by time of every series; ``factor`` tells services apart."""
        for name, value in self.gauges.items():
            yield (*_named(name, labels), lambda t, v=value: v * factor)
        for name, slope in self.counters.items():
            yield (*_named(name, labels), lambda t, s=slope: 1000 + s * factor * t)
        for name, (rate, mean) in self.histograms.items():
            for ending, slope in (("_sum", rate * mean), ("_count", rate)):
                yield (*_named(name, labels, ending), lambda t, s=slope: 1000 + s * factor * t)
            for bound in (mean / 2, mean * 2, float("inf")):
                share = 0.0 if bound < mean else 1.0
                le = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield (
                    *_named(name, {**labels, "le": le}, "_bucket"),
                    lambda t, s=rate * share: 1000 * (s > 0) + s * factor * t,
                )


def _named(name: str, labels: dict[str, str], ending: str = "") -> tuple[str, str]:
    plain, brace, more = name.partition("{")
    texts = [f'{key}="{value}"' for key, value in labels.items()] + ([more.rstrip("}")] if brace else [])
    return f"{plain}{ending}", ",".join(texts)


def openmetrics(families: list[tuple[Family, dict[str, str], float]], start: int = T0) -> str:
    """Return the samples of families with their labels and factors, as OpenMetrics text; ``start``: of the first."""
    by_name: dict[str, list[str]] = {}
    for family, labels, factor in families:
        for name, texts, value in family.samples(labels, factor):
            by_name.setdefault(name, []).extend(
                f"{name}{{{texts}}} {value(i * STEP_S):.6g} {start + i * STEP_S}" for i in range(SAMPLES)
            )
    return "".join(f"# TYPE {name} unknown\n" + "\n".join(lines) + "\n" for name, lines in by_name.items())


VLLM = Family(
    gauges={"vllm:num_requests_running": 3, "vllm:num_requests_waiting": 1, "vllm:kv_cache_usage_perc": 0.5},
    counters={"vllm:generation_tokens_total": 40, "vllm:prompt_tokens_total": 20, "vllm:num_preemptions_total": 0.2},
    histograms={
        "vllm:time_to_first_token_seconds": (2, 0.1),
        "vllm:inter_token_latency_seconds": (30, 0.02),
        "vllm:e2e_request_latency_seconds": (2, 0.5),
        "vllm:request_queue_time_seconds": (2, 0.01),
        "vllm:request_prefill_time_seconds": (2, 0.05),
        "vllm:request_decode_time_seconds": (2, 0.4),
    },
)
VLLM_BY_RAY = Family(
    gauges={name.replace("vllm:", "ray_vllm_"): value for name, value in VLLM.gauges.items()},
    counters={name.replace("vllm:", "ray_vllm_"): value for name, value in VLLM.counters.items()},
    histograms={name.replace("vllm:", "ray_vllm_"): value for name, value in VLLM.histograms.items()},
)
SGLANG = Family(
    gauges={"sglang:num_running_reqs": 3, "sglang:num_queue_reqs": 1, "sglang:token_usage": 0.5},
    counters={
        "sglang:generation_tokens_total": 40,
        "sglang:prompt_tokens_total": 20,
        "sglang:num_requests_total": 2,
    },
    histograms={
        "sglang:time_to_first_token_seconds": (2, 0.1),
        "sglang:inter_token_latency_seconds": (30, 0.02),
        "sglang:e2e_request_latency_seconds": (2, 0.5),
        "sglang:queue_time_seconds": (2, 0.01),
    },
)
TGI = Family(
    gauges={"tgi_batch_current_size": 3, "tgi_queue_size": 1},
    counters={"tgi_request_count": 2, 'tgi_request_failure{err="overloaded"}': 0.1},
    histograms={
        "tgi_request_duration": (2, 0.5),
        "tgi_request_queue_duration": (2, 0.01),
        "tgi_request_mean_time_per_token_duration": (2, 0.02),
        "tgi_request_generated_tokens": (2, 20),
        "tgi_request_input_length": (2, 10),
        'tgi_batch_inference_duration{method="prefill"}': (2, 0.05),
    },
)
DCGM = Family(
    gauges={
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-1",gpu="0"}': 80,
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-2",gpu="1"}': 40,
        'DCGM_FI_DEV_SM_CLOCK{UUID="GPU-1",gpu="0"}': 1400,
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-1",gpu="0"}': 300,
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-2",gpu="1"}': 100,
        'DCGM_FI_DEV_FB_USED{UUID="GPU-1",gpu="0"}': 1024,
    }
)
CADVISOR = Family(
    gauges={
        'container_memory_working_set_bytes{container="engine"}': 2e9,
        'container_memory_working_set_bytes{container=""}': 9e9,
        'container_memory_rss{container="engine"}': 1e9,
    },
    counters={
        'container_cpu_usage_seconds_total{container="engine"}': 2,
        'container_cpu_usage_seconds_total{container="POD"}': 5,
        'container_network_receive_bytes_total{interface="eth0"}': 1000,
        'container_network_transmit_bytes_total{interface="eth0"}': 3000,
        'container_network_transmit_bytes_total{interface="lo"}': 9000,
    },
)
DOCKER = Family(
    gauges={"container_memory_working_set_bytes": 2e9},
    counters={
        "container_cpu_usage_seconds_total": 2,
        'container_network_receive_bytes_total{interface="eth0"}': 1000,
    },
)
NODE = Family(
    gauges={"node_memory_MemTotal_bytes": 8e9, "node_memory_MemAvailable_bytes": 6e9},
    counters={
        'node_cpu_seconds_total{cpu="0",mode="user"}': 0.7,
        'node_cpu_seconds_total{cpu="0",mode="idle"}': 0.3,
        'node_network_receive_bytes_total{device="eth0"}': 1000,
    },
)
PROCESS = Family(gauges={"process_resident_memory_bytes": 2e9}, counters={"process_cpu_seconds_total": 2})
ISTIO = Family(
    counters={
        'istio_requests_total{reporter="destination",response_code="200"}': 2,
        'istio_requests_total{reporter="destination",response_code="503"}': 0.1,
        'istio_requests_total{reporter="source",response_code="200"}': 7,
    },
    histograms={'istio_request_duration_milliseconds{reporter="destination"}': (2, 500)},
)
ENVOY = Family(
    counters={
        'envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="http"}': 2,
        'envoy_http_downstream_rq_xx{envoy_response_code_class="5"}': 0.1,
    },
    histograms={"envoy_http_downstream_rq_time": (2, 500)},
)
NGINX = Family(counters={"nginx_http_requests_total": 2})
INGRESS_NGINX = Family(
    counters={
        'nginx_ingress_controller_requests{status="200"}': 1.9,
        'nginx_ingress_controller_requests{status="502"}': 0.1,
    },
    histograms={"nginx_ingress_controller_request_duration_seconds": (2, 0.5)},
)
ROUTER = Family(counters={"vllm:num_incoming_requests_total": 2})
ENDPOINT_PICKER = Family(
    counters={"inference_objective_request_total": 2, "inference_objective_request_error_total": 0.1},
    histograms={"inference_objective_request_duration_seconds": (2, 0.5)},
)
KUBE_STATE = Family(
    gauges={
        'kube_pod_container_resource_limits{container="engine",resource="cpu"}': 4,
        'kube_pod_container_resource_limits{container="engine",resource="memory"}': 8e9,
        'kube_pod_status_phase{phase="Running"}': 1,
        'kube_pod_status_ready{condition="true"}': 1,
    },
    counters={'kube_pod_container_status_restarts_total{container="engine"}': 0},
)
