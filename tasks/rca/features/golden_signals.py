"""Classifies metrics by the four golden signals, for methods that treat latency and resources differently."""

from __future__ import annotations

import re

from tasks.metrics import IMPORTED, METRICS, GoldenSignal

_KNOWN = {**IMPORTED, **METRICS}
_PATTERNS: tuple[tuple[GoldenSignal, re.Pattern[str]], ...] = (
    ("errors", re.compile(r"error|fail|success|availab|5xx|4xx|exception")),
    ("latency", re.compile(r"latency|duration|response_time|ttft|_time_mean|delay")),
    ("saturation", re.compile(r"cpu|mem|disk|accelerator|gpu|cache|queue|waiting|running|ongoing|network|socket|byte")),
    ("traffic", re.compile(r"request|workload|token|qps|rps|throughput|ops")),
)


def golden_signal(metric: str) -> GoldenSignal:
    """Return the metric's signal by the vocabulary; a foreign one's by the words in its name, else ``saturation``."""
    known = _KNOWN.get(metric)
    if known is not None:
        return known.golden
    name = metric.lower()
    return next((signal for signal, pattern in _PATTERNS if pattern.search(name)), "saturation")
