"""Which of the four golden signals a metric is, for methods that treat latency and resources differently.

Source of the four: Beyer et al., "Site Reliability Engineering", 2016, chapter 6.
"""

from __future__ import annotations

import re
from typing import Literal

GoldenSignal = Literal["latency", "traffic", "errors", "saturation"]

_PATTERNS: tuple[tuple[GoldenSignal, re.Pattern[str]], ...] = (
    ("errors", re.compile(r"error|fail|success|availab|5xx|4xx|exception")),
    ("latency", re.compile(r"latency|duration|response_time|ttft|_time_mean|delay")),
    ("saturation", re.compile(r"cpu|mem|disk|accelerator|gpu|cache|queue|waiting|running|ongoing|network|socket|byte")),
    ("traffic", re.compile(r"request|workload|token|qps|rps|throughput|ops")),
)


def golden_signal(metric: str) -> GoldenSignal:
    """By the words in the metric's name; a metric that names none of them counts as ``saturation``."""
    name = metric.lower()
    return next((signal for signal, pattern in _PATTERNS if pattern.search(name)), "saturation")
