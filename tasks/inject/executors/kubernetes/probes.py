"""Probes on a cluster, by telemetry or by the API's state of the pods.

* CPU and memory: cAdvisor's series of the target container.
* The network: how long Prometheus takes to fetch the pod's own metrics page, and whether it gets it. That is measured
  at every scrape, needs no load and no mesh, and every service is scraped.
* Pods: container ids and readiness.

Prometheus keeps the past, so the figure before the fault is known at once.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence

from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.executor import name_of
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S, KubernetesTarget
from tasks.inject.probe import Gauge, Probe, Sample
from tasks.kube.status import condition
from tasks.prometheus import PrometheusError, Series, raw_samples

log = logging.getLogger(__name__)

LOOK_BACK_S = 150.0
MIB = 2.0**20


class PrometheusProbe(Probe):
    """Samples every series that ``selector`` matches, times ``scale``."""

    interval_s = 2.0
    min_samples = 1
    before_window_s = 45.0
    late_s = 45.0

    def __init__(self, url: str, selector: str, name: str, unit: str, scale: float = 1.0) -> None:
        self.name, self.unit = name, unit
        self._url, self._selector, self._scale = url, selector, scale
        self._seen: dict[tuple[tuple[str, str], ...], tuple[float, float]] = {}
        self._told = False

    def tick(self) -> list[Sample]:
        try:
            found = raw_samples(self._url, self._selector, LOOK_BACK_S)
        except PrometheusError as error:
            if not self._told:
                log.warning("%s: %s", self.name, error)
            self._told = True
            return []
        clock = time.monotonic() - time.time()
        return [sample for series in found for sample in self._new(series, clock)]

    def _new(self, series: Series, clock: float) -> list[Sample]:
        key = tuple(sorted(series.labels.items()))
        fresh = []
        for at, value in series.points:
            last = self._seen.get(key)
            if last is None or at > last[0]:
                self._seen[key] = (at, value)
                fresh += self._samples(last, (at, value), clock)
        return fresh

    def _samples(self, last: tuple[float, float] | None, now: tuple[float, float], clock: float) -> list[Sample]:
        return [Sample(now[0] + clock, now[0] + clock, self._scale * now[1])]


class PrometheusMean(PrometheusProbe):
    """Samples a gauge whose rare large values matter: a phase is reduced to the mean."""

    def reduce(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)


class PrometheusRate(PrometheusMean):
    """Samples the growth of a counter per second."""

    def _samples(self, last: tuple[float, float] | None, now: tuple[float, float], clock: float) -> list[Sample]:
        if last is None or now[1] < last[1]:
            return []
        rate = self._scale * (now[1] - last[1]) / (now[0] - last[0])
        return [Sample(last[0] + clock, now[0] + clock, rate)]


def container_cpu(target: KubernetesTarget) -> Probe:
    selector = f"container_cpu_usage_seconds_total{_container(target)}"
    return PrometheusRate(target.prometheus_url, selector, "CPU of the container", "cores")


def container_memory(target: KubernetesTarget) -> Probe:
    selector = f"container_memory_working_set_bytes{_container(target)}"
    return PrometheusProbe(target.prometheus_url, selector, "working set of the container", "MiB", 1 / MIB)


def scrape_duration(target: KubernetesTarget) -> Probe:
    selector = f"scrape_duration_seconds{_pods(target)}"
    return PrometheusProbe(target.prometheus_url, selector, "time to fetch the metrics of the pod", "ms", 1e3)


def failed_scrapes(target: KubernetesTarget) -> Probe:
    return FailedScrapes(target.prometheus_url, f"up{_pods(target)}", "failed fetches of the metrics of the pod", "%")


class FailedScrapes(PrometheusMean):
    """Samples 1 - ``up``, in percent."""

    def _samples(self, last: tuple[float, float] | None, now: tuple[float, float], clock: float) -> list[Sample]:
        return [Sample(now[0] + clock, now[0] + clock, 100 * (1 - now[1]))]


def working_set_mb(target: KubernetesTarget) -> float:
    """Return the largest working set of the target's containers, in MiB.

    Raises:
        FaultError: Prometheus does not know it.
    """
    found = target.prometheus_samples(f"container_memory_working_set_bytes{_container(target)}", LOOK_BACK_S)
    latest = [series.points[-1][1] for series in found if series.points]
    if not latest:
        raise FaultError(f"{target.name}: Prometheus has no working set of container {target.container}")
    return max(latest) / MIB


def first_containers(target: KubernetesTarget) -> Probe:
    """Sample the share of the containers that have run since the probe was created."""
    first = target.identities()

    def read() -> float:
        return 100 * len(first & target.identities(LOOK_DEADLINE_S)) / len(first) if first else 0.0

    probe = Gauge("first containers of the service that still run", "%", read)
    probe.interval_s, probe.min_samples = 1.0, 1
    return probe


def ready_pods(target: KubernetesTarget) -> int:
    """Count the pods of the service that are ready; 0 when the API does not answer."""
    try:
        pods = target.pods(LOOK_DEADLINE_S)
    except FaultError:
        return 0
    return sum(condition(pod, "Ready") for pod in pods)


def _container(target: KubernetesTarget) -> str:
    return f'{{namespace="{target.namespace}",pod=~"{_names(target)}",container="{target.container}"}}'


def _pods(target: KubernetesTarget) -> str:
    return f'{{namespace="{target.namespace}",pod=~"{_names(target)}"}}'


def _names(target: KubernetesTarget) -> str:
    """Return a matcher of the present pods by name; no character of a pod name is special in a regular expression."""
    return "|".join(name_of(pod) for pod in target.pods()) or "none"
