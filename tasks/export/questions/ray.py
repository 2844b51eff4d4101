"""PromQL for what Ray Serve and vLLM export, by service locally and by pod in a cluster.

Two habits of Ray's exporter shape the queries. It drops a gauge two seconds after it was last set, so the last value
is held while the target is up. It rebuilds histograms from the middles of their buckets, so a mean of 30 microseconds
comes out as 150 milliseconds: means are derived from spans where there are any, and from histograms only elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tasks.export.questions.promql import Combine, Variant
from tasks.export.questions.series_names import RAY_VLLM_PREFIXES, VLLM_PREFIX, vllm_names
from tasks.metrics import HEAD, REPLICA, Source
from tasks.stack import Role

RAY_GAUGE_HOLD_S = 30
"""Ray Serve's controller sets its gauges every ten seconds, vLLM only while it has requests."""

HTTP_WITNESS = "ray_serve_num_ongoing_http_requests"
REPLICA_WITNESS = "ray_serve_replica_processing_queries"


def rate(series: str) -> str:
    return f"sum by ($by) (rate({series}{{$scope}}[$window]))"


def held(aggregation: str, gauge: str, offset: str = "") -> str:
    """Return the last value of a gauge that Ray stops exporting while it does not change, as long as its target is
    up."""
    value = f"{aggregation} by ($by) (last_over_time({gauge}{{$scope}}[{RAY_GAUGE_HOLD_S}s]{offset}))"
    return f"({value} and on ($by) (max by ($by) (up{{$target}}{offset}) == 1))"


def plain(aggregation: str, gauge: str) -> str:
    return f"{aggregation} by ($by) ({gauge}{{$scope}})"


def late_counter_rate(counter: str, zero: str, zero_before: str) -> str:
    """Return the rate of a counter that is exported only once it is above zero.

    Where ``zero`` (zero times something of the same target) has samples the counter is known to be zero before it
    appears, so its first increments count and silence means zero. ``rate()`` would lose both.
    """
    now, before = f"sum by ($by) ({counter})", f"sum by ($by) ({counter} offset $window)"
    return f"clamp_min(({now} - ({before} or {zero_before})) / $window_s, 0) or {zero}"


def ray_late_counter_rate(counter: str, witness: str) -> str:
    return late_counter_rate(
        f"{counter}{{$scope}}", f"0 * {held('sum', witness)}", f"0 * {held('sum', witness, ' offset $window')}"
    )


def everywhere(
    source: Source, promql: str, roles: frozenset[Role], combine: Combine = "sum", divisor: str = ""
) -> tuple[Variant, Variant]:
    """Ask the same of a local stack, whose series carry ``service``, and of a cluster, whose series carry ``pod``."""
    return _local(source, promql, roles, divisor), _cluster(source, promql, roles, combine, divisor)


def by_proxy(promql: str, divisor: str = "") -> tuple[Variant, Variant]:
    """Ask Ray Serve's proxies: the head's locally, those of any pod in a cluster."""
    variants = everywhere("ray_serve", promql, HEAD, divisor=divisor)
    return variants[0], replace(variants[1], roles=HEAD | REPLICA, optional=True)


def _local(source: Source, promql: str, roles: frozenset[Role], divisor: str = "") -> Variant:
    whole = f"{promql} / {divisor}" if divisor else promql
    return Variant(source, _bound(whole, "service", 'job="ray"').replace("$scope", ""), roles)


def _cluster(source: Source, promql: str, roles: frozenset[Role], combine: Combine, divisor: str = "") -> Variant:
    top, bottom = (_bound(text, "pod, service", "$scope") for text in (promql, divisor))
    return Variant(source, top, roles, "pod", combine, bottom)


def _bound(promql: str, by: str, target: str) -> str:
    return promql.replace("$by", by).replace("$target", target)


def milliseconds_mean(histogram: str) -> tuple[str, str]:
    """Return dividend and divisor of a mean in seconds, from a histogram in milliseconds."""
    return f"{rate(f'{histogram}_sum')} / 1000", rate(f"{histogram}_count")


def vllm_mean(histogram: str) -> tuple[Variant, ...]:
    """Mean of the observations in the window; NaN when there were none."""
    return _vllm(histogram, lambda name, _: rate(f"{name}_sum"), "sum", lambda name: rate(f"{name}_count"))


def vllm_rate(counter: str) -> tuple[Variant, ...]:
    return _vllm(counter, lambda name, _: rate(name), "sum")


def vllm_gauge(combine: Combine, gauge: str) -> tuple[Variant, ...]:
    return _vllm(gauge, lambda name, by_ray: (held if by_ray else plain)(combine, name), combine)


def vllm_late_rate(counter: str, witness: str) -> tuple[Variant, ...]:
    """Through Ray the counter appears with its first increment; vLLM itself exports it from the start."""

    def promql(name: str, by_ray: bool) -> str:
        if not by_ray:
            return rate(name)
        prefix = name.removesuffix(counter)
        return ray_late_counter_rate(name, f"{prefix}{witness}")

    return _vllm(counter, promql, "sum")


def _vllm(
    name: str, promql: Callable[[str, bool], str], combine: Combine, divisor: Callable[[str], str] | None = None
) -> tuple[Variant, ...]:
    """Locally the names of the versions that are installed; in a cluster, older ones too.

    Args:
        promql: of the full name of the series and whether Ray exports it.
        divisor: of the full name of the series.
    """
    local, cluster = [], []
    for i, known in enumerate(vllm_names(name)):
        for prefix in (*RAY_VLLM_PREFIXES, VLLM_PREFIX):
            by_ray = prefix is not VLLM_PREFIX
            source: Source = "ray_vllm" if by_ray else "vllm"
            full = f"{prefix.name}{known}"
            top, bottom = promql(full, by_ray), divisor(full) if divisor else ""
            if i == 0 and not prefix.until:
                local.append(_local(source, top, REPLICA, bottom))
            cluster.append(_cluster(source, top, REPLICA, combine, bottom))
    return (*local, *cluster)
