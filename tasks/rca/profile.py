"""Which metrics a profile lets the methods see."""

from __future__ import annotations

from typing import Literal

Profile = Literal["paper", "llm"]

PAPER_METRICS = frozenset(
    {
        "cpu_usage",
        "memory_working_set",
        "network_receive",
        "network_transmit",
        "accelerator_utilization",
        "latency_p50",
        "latency_p90",
    }
)
"""What arXiv 2603.02057 gave its methods, by our metric names: container CPU, memory and network, accelerator
utilisation, service latency. The profile ``llm`` is every metric of the case."""


def is_visible(metric: str, profile: Profile) -> bool:
    return profile == "llm" or metric in PAPER_METRICS
