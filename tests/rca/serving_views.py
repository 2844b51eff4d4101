"""Hand-made views of a serving stack: a gateway, a head and some replicas, whose metrics a test then breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tasks.rca.view import CaseView
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
