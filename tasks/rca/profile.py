"""Which metrics a profile lets the methods see."""

from __future__ import annotations

from typing import get_args

from tasks.export.questions.metrics import Profile, metric_names

PROFILES: tuple[Profile, ...] = get_args(Profile)
PAPER_METRICS = frozenset(metric_names("paper"))
"""What arXiv 2603.02057 gave its methods, by our metric names: container CPU, memory and network, accelerator
utilisation, service latency. The profile ``llm`` is every metric of the case."""


def is_visible(metric: str, profile: Profile) -> bool:
    return profile == "llm" or metric in PAPER_METRICS
