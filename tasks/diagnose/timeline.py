"""What happened around the change: restarts, rollouts, scaling and alerts, as far as the metrics tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from tasks.case import Case
from tasks.export.base import ExportContext, ExportError
from tasks.export.grid import TimeGrid
from tasks.export.sources.http import RefusedError
from tasks.export.sources.matrix import Series
from tasks.metrics import PODS_READY, PROCESSES, RESTARTS_RATE
from tasks.text import some

MOST_EVENTS = 200
_STEPS = 300

EventKind = Literal["restart", "gone", "rollout", "scaling", "pod", "alert"]


@dataclass(frozen=True)
class Event:
    """``service``: empty if it is the stack's, or of nobody known."""

    time: datetime
    kind: EventKind
    service: str
    text: str


def events_of_case(case: Case) -> tuple[Event, ...]:
    """Return restarts and lost processes or pods, in order of time, from the metrics of a case."""
    table = case.metrics
    found: list[Event] = []
    for metric in (RESTARTS_RATE, PODS_READY, PROCESSES):
        rows = table[(table["metric"] == metric.name).to_numpy()].sort_values("time")
        for service, of_service in rows.groupby("service", observed=True):
            times = pd.DatetimeIndex(of_service["time"])
            values = of_service["value"].to_numpy(dtype=float)
            found += _steps(str(service), metric.name, times, values)
    return tuple(sorted(found, key=lambda event: event.time)[:MOST_EVENTS])


def _steps(service: str, metric: str, times: pd.DatetimeIndex, values: np.ndarray) -> Iterator[Event]:
    known = np.flatnonzero(np.isfinite(values))
    for before, now in pairwise(known.tolist()):
        moment = times[now].to_pydatetime().astimezone(UTC)
        if metric == RESTARTS_RATE.name:
            if values[now] > 0 and values[before] == 0:
                yield Event(moment, "restart", service, "a container restarted")
        elif metric == PODS_READY.name:
            if values[now] != values[before]:
                yield Event(moment, "pod", service, f"{values[before]:g} → {values[now]:g} pods ready")
        elif values[now] != values[before] and 0 in (values[now], values[before]):
            kind: EventKind = "gone" if values[now] == 0 else "restart"
            yield Event(moment, kind, service, "no process runs" if values[now] == 0 else "runs again")


def events_of_prometheus(context: ExportContext) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """Return alerts, rollouts, scaling and new pods from Prometheus; and why something cannot be told, one line each.

    Without a namespace only alerts are asked for: the others are Kubernetes's.
    """
    if context.sources.prometheus_url is None:
        return (), ()
    window_s = (context.end - context.start).total_seconds()
    grid = TimeGrid.aligned(context.start, context.end, max(context.params.step_s, window_s / _STEPS))
    namespace = context.sources.namespace
    scope = f'namespace="{namespace}"' if namespace else ""
    found: list[Event] = []
    problems: list[str] = []
    firing = ",".join(filter(None, ('alertstate="firing"', scope)))
    questions = [f"ALERTS{{{firing}}}"]
    if namespace:
        questions += [
            f'{{__name__=~"kube_(deployment|statefulset)_status_observed_generation",{scope}}}',
            f'{{__name__=~"kube_(deployment|statefulset)_(spec_)?replicas",{scope}}}',
            f"kube_pod_created{{{scope}}}",
        ]
    try:
        with context.prometheus() as client:
            for question in questions:
                try:
                    pieces: dict[frozenset[tuple[str, str]], list[Series]] = {}
                    for chunk in client.query_range(question, grid):
                        for series in chunk:
                            pieces.setdefault(frozenset(series.labels.items()), []).append(series)
                    for each in pieces.values():
                        found += _events(each, context, grid)
                except RefusedError as error:
                    problems.append(f"timeline: {error}")
    except ExportError as error:
        problems.append(f"timeline: {error}")
    found.sort(key=lambda event: event.time)
    if len(found) > MOST_EVENTS:
        problems.append(f"timeline: {len(found) - MOST_EVENTS} later events are left out")
    return tuple(found[:MOST_EVENTS]), tuple(problems)


def _events(parts: list[Series], context: ExportContext, grid: TimeGrid) -> Iterator[Event]:
    labels = parts[0].labels
    times = np.concatenate([part.times_ns for part in parts])
    values = np.concatenate([part.values for part in parts])
    name = labels.get("__name__", "")
    if name == "ALERTS":
        yield from _alert(labels, times, context, grid)
    elif name == "kube_pod_created":
        created = datetime.fromtimestamp(float(values[-1]), UTC)
        if context.start <= created <= context.end:
            pod = labels.get("pod", "")
            yield Event(created, "pod", _service_of_pod(pod, context), f"pod {pod} was created")
    else:
        what = labels.get("deployment") or labels.get("statefulset") or ""
        for i in np.flatnonzero(np.diff(values)) + 1:
            moment = datetime.fromtimestamp(times[i] / 1e9, UTC)
            if "generation" in name:
                yield Event(moment, "rollout", _known(what, context), f"{what}: generation {values[i]:g} is rolled out")
            else:
                text = f"{what}: {values[i - 1]:g} → {values[i]:g} replicas"
                yield Event(moment, "scaling", _known(what, context), text)


def _alert(labels: Mapping[str, str], times: np.ndarray, context: ExportContext, grid: TimeGrid) -> Iterator[Event]:
    hidden = {"__name__", "alertname", "alertstate", "namespace", "prometheus"}
    shown = [f"{name}={labels[name]}" for name in sorted(labels.keys() - hidden)]
    who = labels.get("service") or labels.get("pod") or ""
    text = f"{labels.get('alertname', 'an alert')} fires" + (f" ({some(shown, 4)})" if shown else "")
    service = _service_of_pod(who, context) or _known(who, context)
    gaps = np.flatnonzero(np.diff(times) > 1.5e6 * grid.step_ms) + 1
    for start in (0, *gaps.tolist()):
        yield Event(datetime.fromtimestamp(times[start] / 1e9, UTC), "alert", service, text)


def _service_of_pod(pod: str, context: ExportContext) -> str:
    return next((each.service for each in context.sources.pods if each.pod == pod), "")


def _known(name: str, context: ExportContext) -> str:
    return name if name in context.roles else ""
