"""What a view says of the stack and of the recording beside the telemetry: facts, none of which is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OTHER_SOURCE = "data set"
"""The source of a metric that somebody's data set brought."""

SignalStatus = Literal["complete", "partial", "empty", "not recorded"]


@dataclass(frozen=True)
class MetricFacts:
    """Unit and source of a metric, None if the recording does not say. ``source`` is a variant of the metric map or
    :data:`OTHER_SOURCE`."""

    unit: str | None
    source: str | None


@dataclass(frozen=True)
class SignalFacts:
    """Whether a signal was recorded, and its rows in the visible window. ``empty``: recorded, but nothing came."""

    status: SignalStatus
    rows: int


@dataclass(frozen=True)
class ServiceFacts:
    """Limits of a service in cores, bytes, tokens and sequences, None where unknown or unlimited. ``hosts`` and
    ``devices`` name where it ran and its accelerators; services that name the same one share it."""

    cpu_cores: float | None = None
    memory_bytes: float | None = None
    kv_cache_bytes: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    hosts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadProfile:
    """The requested load: arrivals, requests per second, endpoint, mean tokens per prompt and answer, seconds after
    which a request is given up. None where the recording does not say."""

    arrival: str | None = None
    rate: float | None = None
    endpoint: str | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    request_timeout_s: float | None = None


@dataclass(frozen=True)
class Context:
    """Facts about the stack and the recording.

    ``metrics`` has every (service, metric) of the view, ``services`` every candidate. ``rate_window_s``: how long the
    window is that rates are computed over, None if not known.
    """

    model: str | None = None
    engine: str | None = None
    parallelism: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    load: LoadProfile = LoadProfile()
    rate_window_s: float | None = None
    metrics: Mapping[tuple[str, str], MetricFacts] = field(default_factory=dict)
    services: Mapping[str, ServiceFacts] = field(default_factory=dict)
    signals: Mapping[str, SignalFacts] = field(default_factory=dict)
