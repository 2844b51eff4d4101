"""The signals by which a service is judged: column, scale, the smallest change that matters, and the harmful direction.

A change is measured on a scale on which it means the same at every level: logarithms for amounts (``offset``: what does
not matter yet), the value itself for shares. ``floor`` is the smallest change that an operator cares about, on that
scale: however quiet the baseline, less than that is never significant.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

Scale = Literal["log", "plain"]
Group = Literal["cpu", "memory", "link", "step", "stall", "restart", "accelerator", "hint", "external"]

INTERNAL: tuple[Group, ...] = ("cpu", "memory", "link", "step", "stall", "restart", "accelerator")
"""Evidence that can name a root. ``hint`` only helps to tell kinds; ``external`` (latency, errors, queues: what a
caller sees) shows victims as well as roots and never names one. Idea of internal and external: PRISM, arXiv 2601.21359,
2026."""


@dataclass(frozen=True)
class Signal:
    """``columns``: of :mod:`tasks.rca.features.serving`; the first that there is counts. ``shows``: the column that a
    sentence quotes. ``metric``: the metric of the vocabulary that it stands for, None if it is made of spans. ``harm``:
    1 if a rise is bad, -1 if a fall is. ``once``: the worst value of the window counts, not the typical one.
    ``needs_effect``: a setting or a counter, a fault only as far as the step time moves with it. ``factor``: from the
    column's unit to ``unit``."""

    name: str
    group: Group
    columns: tuple[str, ...]
    scale: Scale
    floor: float
    words: str
    offset: float = 0.0
    harm: Literal[1, -1] = 1
    once: bool = False
    needs_effect: bool = False
    shows: str = ""
    metric: str | None = None
    unit: str = ""
    factor: float = 1.0

    def scaled(self, table: np.ndarray) -> np.ndarray:
        """Return ``table`` on the signal's scale, harmful up."""
        if self.scale == "plain":
            return self.harm * table
        with np.errstate(all="ignore"):
            values = np.log(np.maximum(table, 0.0) + self.offset)
        return np.where(np.isfinite(values), self.harm * values, np.nan)


_SLOWER = log(1.15)
_LIMIT = log(1.05)

SIGNALS: tuple[Signal, ...] = (
    Signal("cpu", "cpu", ("cpu_beyond_load", "cpu"), "log", _SLOWER, "uses more CPU than its work explains",
           offset=0.02, shows="cpu", metric="cpu_usage", unit="cores"),
    Signal("memory", "memory", ("memory", "working_set"), "log", log(1.03), "holds more memory",
           offset=100e6, metric="memory_rss", unit="MB", factor=1e-6),
    Signal("step", "step", ("step_beyond_load", "step"), "log", _SLOWER, "a decode step takes longer at equal batch",
           offset=1e-3, shows="step", metric="inter_token_latency_mean", unit="ms", factor=1e3),
    Signal("stopped", "stall", ("stopped",), "plain", 0.1, "uses no CPU at all, not even to idle",
           shows="cpu", metric="cpu_usage", unit="cores"),
    Signal("silent", "stall", ("silent",), "plain", 0.15, "completes nothing",
           shows="done", metric="generation_tokens_rate", unit="of normal"),
    Signal("refused", "stall", ("refused",), "plain", 0.1, "requests fail before they reach it",
           metric="error_rate", unit="of requests"),
    Signal("mute", "link", ("mute",), "plain", 0.1, "sends nothing at all",
           shows="transmit", metric="network_transmit", unit="kB/s", factor=1e-3),
    Signal("unheard", "stall", ("unheard",), "plain", 0.15, "does not answer Prometheus",
           metric="scrape_success", unit="of scrapes"),
    Signal("resent", "link", ("retransmits",), "log", log(1.6), "sends packets again that did not arrive in time",
           offset=0.2, shows="retransmits", metric="network_retransmits", unit="segments/s"),
    Signal("vanished", "restart", ("vanished",), "plain", 0.25, "its processes were gone",
           once=True, shows="processes", metric="processes", unit="processes"),
    Signal("cut", "restart", ("cut",), "plain", 0.25, "broke off requests that it had accepted",
           once=True),
    Signal("restarts", "restart", ("restarts",), "plain", 0.01, "was restarted",
           once=True, metric="restarts_rate", unit="restarts/s"),
    Signal("clock", "accelerator", ("gpu_clock_busy",), "log", _LIMIT, "its SM clock fell while it was busy",
           harm=-1, needs_effect=True, shows="gpu_clock_busy", metric="gpu_sm_clock", unit="MHz"),
    Signal("power_limit", "accelerator", ("gpu_power_limit",), "log", _LIMIT, "its power limit was lowered",
           harm=-1, needs_effect=True, metric="gpu_power_limit", unit="W"),
    Signal("quota", "accelerator", ("quota",), "log", _LIMIT, "its computing capacity was cut",
           harm=-1, needs_effect=True, metric="accelerator_utilization", unit="cores"),
    Signal("power_violation", "accelerator", ("gpu_power_violation",), "plain", 0.1, "is held back by its power limit",
           needs_effect=True, metric="gpu_power_violation", unit="s/s"),
    Signal("thermal_violation", "accelerator", ("gpu_thermal_violation",), "plain", 0.1, "is held back by heat",
           needs_effect=True, metric="gpu_thermal_violation", unit="s/s"),
    Signal("gpu_memory", "hint", ("gpu_memory",), "log", _LIMIT, "more GPU memory is in use", offset=256e6,
           metric="gpu_memory_used", unit="MB", factor=1e-6),
    Signal("gpu_active", "hint", ("gpu_active",), "plain", 0.1, "its GPU is busier", metric="gpu_sm_active"),
    Signal("cpu_throttled", "hint", ("cpu_throttled",), "plain", 0.1, "is held back by its CPU quota",
           metric="cpu_throttled", unit="s/s"),
    Signal("latency", "external", ("latency", "latency_p90"), "log", _SLOWER, "answers its callers later", offset=2e-3,
           metric="latency_p50", unit="s"),
    Signal("errors", "external", ("errors",), "plain", 0.1, "requests to it fail", metric="error_rate",
           unit="requests/s"),
    Signal("waiting", "external", ("waiting",), "plain", 1.0, "requests wait in it", metric="requests_waiting",
           unit="requests"),
)  # fmt: skip
LINK = Signal("link", "link", (), "log", log(1.25), "calls over its link are late", metric="latency_p50", unit="s")
"""Gaps of calls, which :mod:`tasks.rca.features.links` blames on one end."""
BY_NAME = {signal.name: signal for signal in (*SIGNALS, LINK)}
