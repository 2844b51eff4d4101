"""Hand-made views of a serving stack: a gateway, a head and some replicas, whose metrics a test then breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from tasks.rca.view import CaseView
from tests.rca.traces import Call, call, with_traces
from tests.rca.views import view_of

ROWS, BEFORE = 60, 30
LEVELS: Mapping[str, Mapping[str, float]] = {
    "gateway": {"cpu_usage": 0.05, "memory_rss": 3e7, "network_transmit": 5e4, "processes": 2, "request_rate": 9},
    "head": {"cpu_usage": 0.2, "memory_rss": 7e8, "network_transmit": 8e4, "processes": 11, "request_rate": 9},
    "replica": {
        "cpu_usage": 0.3,
        "memory_rss": 1.4e9,
        "network_transmit": 3e4,
        "processes": 8,
        "request_rate": 3,
        "inter_token_latency_mean": 0.012,
        "requests_running": 1.0,
        "generation_tokens_rate": 48.0,
        "prompt_tokens_rate": 70.0,
        "latency_p50": 0.25,
        "cpu_throttled": 0.05,
    },
}
CALM = frozenset({"processes", "memory_rss"})
"""Metrics that hardly move by themselves."""

Break = Callable[[np.ndarray], np.ndarray]
"""From the values of a metric after the inject time to what the fault makes of them."""


def serving_view(
    faults: Mapping[tuple[str, str], Break] | None = None,
    *,
    replicas: int = 3,
    seed: int = 0,
    noise: float = 0.05,
    extra: Mapping[str, float] | None = None,
    load: Callable[[np.ndarray], np.ndarray] | None = None,
) -> CaseView:
    """A stack with the metrics of ``LEVELS`` (and ``extra`` ones of the replicas) and ``faults``: (service, metric) ->
    what happens to its samples after the inject time. ``load``: seconds since the first row -> relative load, which
    CPU, traffic, batch and rates follow. Services are named ``gateway``, ``head`` and ``r0`` on."""
    rng = np.random.default_rng(seed)
    roles = {"gateway": "gateway", "head": "head", **{f"r{i}": "replica" for i in range(replicas)}}
    factor = np.ones(ROWS) if load is None else load(np.arange(ROWS, dtype=float))
    columns: dict[tuple[str, str], list[float]] = {}
    for service, role in roles.items():
        for metric, level in {**LEVELS[role], **((extra or {}) if role == "replica" else {})}.items():
            values = level * np.exp((0.001 if metric in CALM else noise) * rng.standard_normal(ROWS))
            if metric == "processes":
                values = np.full(ROWS, level)
            if metric.endswith("_rate") or metric in ("cpu_usage", "network_transmit", "requests_running"):
                values = values * factor
            if metric == "inter_token_latency_mean":
                values = values * np.sqrt(factor)
            if faults and (service, metric) in faults:
                values[BEFORE:] = faults[service, metric](values[BEFORE:])
            columns[service, metric] = values.tolist()
    view = view_of(columns, normal_rows=BEFORE)
    return replace(view, roles=roles, front_end="gateway", step_s=1.0)  # type: ignore[arg-type]


def times(factor: float) -> Break:
    return lambda values: values * factor


def becomes(level: float) -> Break:
    return lambda values: np.full_like(values, level)


def lost() -> Break:
    return becomes(np.nan)


def with_calls(
    view: CaseView,
    *,
    late: str | None = None,
    delay_s: float = 0.3,
    share: float = 1.0,
    refused: bool = False,
    broken: bool = False,
) -> CaseView:
    """``view`` with a request to each replica in each second, its spans and the load's record of it.

    From the inject time on what ``late`` sends is late by ``delay_s``, for a ``share`` of the calls. ``refused``: two
    requests after the inject time find the door closed; ``broken``: two that were passed on are never answered.
    """
    rng = np.random.default_rng(1)
    replicas = [service for service in view.services if view.roles[service] == "replica"]
    roots: list[Call] = []
    rows: list[dict[str, object]] = []
    for second in range(-BEFORE, ROWS - BEFORE - 3):
        for i, replica in enumerate(replicas):
            start = second + 0.1 + 0.2 * i
            slow = second >= 0 and rng.random() < share

            def leg(sender: str, slow: bool = slow) -> float:
                return float(
                    0.004 * rng.uniform(0.8, 1.2)
                    + (delay_s * rng.uniform(0.95, 1.05) if slow and sender == late else 0)
                )

            work = 0.15 * rng.uniform(0.9, 1.1)
            at_head = start + leg("gateway")
            at_replica = at_head + leg("head")
            head_took = at_replica - at_head + work + leg(replica)
            gateway_took = at_head - start + head_took + leg("head")
            took = gateway_took + leg("gateway")
            down = call("head", at_head, head_took, call(replica, at_replica, work))
            lost = (refused or broken) and second in (4, 5) and i == 0
            if lost and broken:
                roots.append(call("head", at_head, head_took))
            elif not lost:
                roots.append(call("gateway", start, gateway_took, down))
            rows.append(
                {
                    "trace_id": f"trace-{len(roots) - 1}" if not lost or broken else "nowhere",
                    "scheduled": view.inject_time + pd.Timedelta(seconds=start),
                    "last_token": pd.NaT if lost else view.inject_time + pd.Timedelta(seconds=start + took),
                    "error": "ClientConnectorError" if lost else None,
                }
            )
    traced = with_traces(view, roots)
    requests = pd.DataFrame(rows).reindex(columns=view.requests.columns)
    for name in ("scheduled", "sent", "first_token", "last_token"):
        requests[name] = pd.to_datetime(requests[name], utc=True).dt.as_unit("ns")
    return replace(traced, services=view.services, roles=view.roles, requests=requests)
