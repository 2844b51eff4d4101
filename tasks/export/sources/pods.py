"""The pods of a stack as kube-state-metrics saw them: also those that came or went within the window."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from tasks.export.grid import TimeGrid
from tasks.export.sources.matrix import Series
from tasks.export.sources.placement import PodPlacement
from tasks.export.sources.prometheus import PrometheusClient

MOST_LOOKS = 400
"""The window is looked at this many times at most."""


def discover_pods(
    client: PrometheusClient, grid: TimeGrid, namespace: str, service_label: str, services: tuple[str, ...]
) -> tuple[PodPlacement, ...]:
    """Return the pods whose label ``service_label`` names a service, with the times between which they were there.

    A pod that is there at the first look has no start, one that is there at the last look no end. Any other came just
    after the look before the first that saw it, and went just before the look after the last. kube-state-metrics must
    export the label (``--metric-labels-allowlist=pods=[...]``); where it does not, nothing is found.

    Raises:
        SourceError: Prometheus does not answer.
    """
    looks = _coarse(grid)
    label = f"label_{re.sub(r'[^A-Za-z0-9_]', '_', service_label)}"
    labels_query = f'max by (pod, uid, {label}) (kube_pod_labels{{namespace="{namespace}",{label}!=""}})'
    info_query = f'max by (pod, uid, node, pod_ip) (kube_pod_info{{namespace="{namespace}"}})'
    named = [s for chunk in client.query_range(labels_query, looks) for s in chunk if s.labels.get(label) in services]
    infos = [s for chunk in client.query_range(info_query, looks) for s in chunk]
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
    between_ns = looks.step_ms * 1_000_000
    last_look = max((last for _, last in times.values()), default=0)
    return tuple(
        replace(
            pod,
            start=_moment(times[key][0] - between_ns) if times[key][0] > looks.start_ms * 1_000_000 else None,
            end=_moment(times[key][1] + between_ns) if times[key][1] < last_look else None,
        )
        for key, pod in found.items()
    )


def _coarse(grid: TimeGrid) -> TimeGrid:
    every = max(1, -(-grid.steps // MOST_LOOKS))
    return TimeGrid(grid.start_ms, grid.step_ms * every, (grid.steps - 1) // every + 1)


def _key(series: Series) -> tuple[str, str]:
    return series.labels.get("pod", ""), series.labels.get("uid", "")


def _seen(series: Iterable[Series]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the first and last time of each pod, in nanoseconds."""
    times: dict[tuple[str, str], tuple[int, int]] = {}
    for item in series:
        if len(item.times_ns):
            first, last = int(item.times_ns[0]), int(item.times_ns[-1])
            before = times.get(_key(item), (first, last))
            times[_key(item)] = (min(before[0], first), max(before[1], last))
    return times


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)
