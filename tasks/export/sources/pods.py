"""Finds the pods of a stack, also those that started or ended within the window, by kube-state-metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from tasks.export.grid import TimeGrid
from tasks.export.sources.matrix import Series
from tasks.export.sources.placement import PodPlacement
from tasks.export.sources.prometheus import PrometheusClient

MAX_SAMPLES = 400
"""Maximum number of times at which the window is sampled."""


def discover_pods(
    client: PrometheusClient, grid: TimeGrid, namespace: str, service_label: str, services: tuple[str, ...]
) -> tuple[PodPlacement, ...]:
    """Return the pods whose label ``service_label`` names a service, with the times between which they existed.

    A pod in the first sample has no start, one in the last sample no end. Any other starts just after the sample before
    its first one, and ends just before the sample after its last one. kube-state-metrics must export the label
    (``--metric-labels-allowlist=pods=[...]``); otherwise nothing is found.

    Raises:
        SourceError: Prometheus does not answer.
    """
    samples = _coarse(grid)
    label = f"label_{re.sub(r'[^A-Za-z0-9_]', '_', service_label)}"
    labels_query = f'max by (pod, uid, {label}) (kube_pod_labels{{namespace="{namespace}",{label}!=""}})'
    info_query = f'max by (pod, uid, node, pod_ip) (kube_pod_info{{namespace="{namespace}"}})'
    named = [s for chunk in client.query_range(labels_query, samples) for s in chunk if s.labels.get(label) in services]
    infos = [s for chunk in client.query_range(info_query, samples) for s in chunk]
    found: dict[tuple[str, str], PodPlacement] = {}
    for item in named:
        key = _key(item)
        found.setdefault(key, PodPlacement(item.labels[label], key[0], uid=key[1] or None))
    for item in infos:
        key = _key(item)
        if key in found:
            node, address = item.labels.get("node"), item.labels.get("pod_ip")
            found[key] = replace(found[key], node=node or found[key].node, address=address or found[key].address)
    times = _seen([*named, *infos])
    between_ns = samples.step_ms * 1_000_000
    last_sample = max((last for _, last in times.values()), default=0)
    return tuple(
        replace(
            pod,
            start=_moment(times[key][0] - between_ns) if times[key][0] > samples.start_ms * 1_000_000 else None,
            end=_moment(times[key][1] + between_ns) if times[key][1] < last_sample else None,
        )
        for key, pod in found.items()
    )


def _coarse(grid: TimeGrid) -> TimeGrid:
    every = max(1, -(-grid.steps // MAX_SAMPLES))
    return TimeGrid(grid.start_ms, grid.step_ms * every, (grid.steps - 1) // every + 1)


def _key(series: Series) -> tuple[str, str]:
    return series.labels.get("pod", ""), series.labels.get("uid", "")


def _seen(series: Iterable[Series]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the first and last sample time of each pod, in nanoseconds."""
    times: dict[tuple[str, str], tuple[int, int]] = {}
    for item in series:
        if len(item.times_ns):
            first, last = int(item.times_ns[0]), int(item.times_ns[-1])
            before = times.get(_key(item), (first, last))
            times[_key(item)] = (min(before[0], first), max(before[1], last))
    return times


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)
