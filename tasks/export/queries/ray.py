"""PromQL for metrics of Ray Serve and vLLM, by service locally and by pod in a cluster.

Ray's exporter drops a gauge two seconds after it was last set, so the queries keep the last value while the target is
up. It rebuilds histograms from the middles of their buckets, so a mean of 30 microseconds becomes 150 milliseconds:
means are derived from spans where they exist, and from histograms only elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tasks.export.queries.promql import Combine, Variant
from tasks.export.queries.series_names import RAY_VLLM_PREFIXES, VLLM_PREFIX, vllm_names
from tasks.metrics import HEAD, REPLICA, Source
from tasks.stack import Role

RAY_GAUGE_HOLD_S = 30
"""Ray Serve's controller sets its gauges every ten seconds, vLLM only while it has requests."""

HTTP_WITNESS = "ray_serve_num_ongoing_http_requests"
REPLICA_WITNESS = "ray_serve_replica_processing_queries"


def rate(series: str) -> str:
    return f"sum by ($by) (rate({series}{{$scope}}[$window]))"


def held(aggregation: str, gauge: str, offset: str = "") -> str:
    """Return the last value of a gauge while its target is up: Ray stops exporting unchanged gauges."""
    value = f"{aggregation} by ($by) (last_over_time({gauge}{{$scope}}[{RAY_GAUGE_HOLD_S}s]{offset}))"
    return f"({value} and on ($by) (max by ($by) (up{{$target}}{offset}) == 1))"


def plain(aggregation: str, gauge: str) -> str:
    return f"{aggregation} by ($by) ({gauge}{{$scope}})"


def late_counter_rate(counter: str, zero: str, zero_before: str) -> str:
    """Return the rate of a counter that is exported only once it is above zero.

    Where ``zero`` (0 times a series of the same target) has samples, the missing counter is 0: its first increments
    count, and no counter means no events. ``rate()`` would lose both.
    """
    now, before = f"sum by ($by) ({counter})", f"sum by ($by) ({counter} offset $window)"
    return f"clamp_min(({now} - ({before} or {zero_before})) / $window_s, 0) or {zero}"


def ray_late_counter_rate(counter: str, witness: str) -> str:
    return late_counter_rate(
        f"{counter}{{$scope}}", f"0 * {held('sum', witness)}", f"0 * {held('sum', witness, ' offset $window')}"
    )


def everywhere(source: Source, promql: str, roles: frozenset[Role], divisor: str = "") -> tuple[Variant, Variant]:
    """Return the query for a local stack, whose series carry ``service``, and for a cluster, with ``pod``."""
    return _local(source, promql, roles, divisor), _cluster(source, promql, roles, "sum", divisor)


def by_proxy(promql: str, divisor: str = "") -> tuple[Variant, Variant]:
    """Return the query of Ray Serve's proxies: the head's locally, those of any pod in a cluster."""
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
    """Return the mean of the observations in the window; NaN without any."""
    return _vllm(histogram, lambda name, _: rate(f"{name}_sum"), "sum", lambda name: rate(f"{name}_count"))


def vllm_rate(counter: str) -> tuple[Variant, ...]:
    return _vllm(counter, lambda name, _: rate(name), "sum")


def vllm_gauge(combine: Combine, gauge: str) -> tuple[Variant, ...]:
    return _vllm(gauge, lambda name, by_ray: (held if by_ray else plain)(combine, name), combine)


def vllm_late_rate(counter: str, witness: str) -> tuple[Variant, ...]:
    """Return the rate of a counter that Ray exports from its first increment on, vLLM itself from the start."""

    def promql(name: str, by_ray: bool) -> str:
        if not by_ray:
            return rate(name)
        prefix = name.removesuffix(counter)
        return ray_late_counter_rate(name, f"{prefix}{witness}")

    return _vllm(counter, promql, "sum")


def _vllm(
    name: str, promql: Callable[[str, bool], str], combine: Combine, divisor: Callable[[str], str] | None = None
) -> tuple[Variant, ...]:
    """Return the variants: locally for the installed versions' names, in a cluster also for older ones.

    Args:
        promql: maps the series' full name, and whether Ray exports it, to the query.
        divisor: maps the series' full name to the divisor.
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
