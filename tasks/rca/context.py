"""What a view says of the stack and of the recording beside the telemetry: facts, none of which is the answer.

Nothing here names a case, a file or a fault. Free text of a data set (its origin, reasons of completeness, names of its
columns) is left out, since it may hold the names of folders, faults and services; hosts and devices are numbered in the
order of the view's services.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from tasks.metrics import SOURCES
from tasks.requests import time_out_s

if TYPE_CHECKING:
    from tasks.case import CaseRecord

SOFTWARE = frozenset(
    {"cuda", "driver", "kubernetes", "metric_map", "nginx", "python", "ray", "sglang", "torch", "transformers", "vllm"}
)
"""Of ``versions`` the view shows these."""
OTHER_SOURCE = "data set"
_VERSION = re.compile(r"v?\d[\w.+-]{0,40}")

SignalStatus = Literal["complete", "partial", "empty", "not recorded"]


@dataclass(frozen=True)
class MetricFacts:
    """``unit``: None if the recording does not say. ``source``: which of the variants of the metric map it is made of,
    :data:`OTHER_SOURCE` for one of somebody's data set."""

    unit: str | None
    source: str | None


@dataclass(frozen=True)
class SignalFacts:
    """``empty``: it was recorded and nothing came, ``not recorded``: nobody looked. ``rows``: in the visible window."""

    status: SignalStatus
    rows: int


@dataclass(frozen=True)
class ServiceFacts:
    """Limits in cores, bytes, tokens and sequences, None where not known or not limited. ``hosts``, ``devices``: where
    it ran and on which accelerators; services with the same name of one share it."""

    cpu_cores: float | None = None
    memory_bytes: float | None = None
    kv_cache_bytes: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    hosts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadProfile:
    """The load as it was asked for: arrivals, requests per second, endpoint, mean tokens per prompt and answer, seconds
    after which a request is given up. None where the recording does not say."""

    arrival: str | None = None
    rate: float | None = None
    endpoint: str | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    request_timeout_s: float | None = None


@dataclass(frozen=True)
class Context:
    """``metrics``: by (service, metric), for every column of the view. ``services``: every candidate. ``signals``: by
    name. ``rate_window_s``: over how long rates are taken, None if not known."""

    model: str | None = None
    engine: str | None = None
    parallelism: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    load: LoadProfile = LoadProfile()
    rate_window_s: float | None = None
    metrics: Mapping[tuple[str, str], MetricFacts] = field(default_factory=dict)
    services: Mapping[str, ServiceFacts] = field(default_factory=dict)
    signals: Mapping[str, SignalFacts] = field(default_factory=dict)


def build_context(
    record: CaseRecord,
    services: tuple[str, ...],
    columns: Sequence[tuple[str, str]],
    samples: pd.DataFrame,
    topology: pd.DataFrame,
    tables: Mapping[str, tuple[int, int]],
) -> Context:
    """
    Args:
        services, columns: the candidates and the (service, metric) of the metrics, both in the order of the view.
        samples: the visible metrics, long.
        tables: by signal, how many rows the case has and how many of them are visible.
    """
    stack = record.stack
    return Context(
        model=_plain_name(stack.model),
        engine=_plain_name(stack.engine),
        parallelism={name: stack.parallelism[name] for name in sorted(stack.parallelism)},
        versions=safe_versions({**record.versions, **stack.versions}),
        load=_load_profile(record.load.parameters),
        rate_window_s=record.sampling.rate_window_s,
        metrics=_metric_facts(samples, columns),
        services=_service_facts(record, services, topology),
        signals={
            name: SignalFacts(_status(record, name, rows), visible) for name, (rows, visible) in sorted(tables.items())
        },
    )


def safe_versions(versions: Mapping[str, str]) -> dict[str, str]:
    """Those of known software that look like a version; what an importer notes about a case is neither."""
    return {
        name: versions[name] for name in sorted(SOFTWARE & versions.keys()) if _VERSION.fullmatch(str(versions[name]))
    }


def _plain_name(name: str | None) -> str | None:
    """The name of a model or an engine; of a path or an address the last part."""
    if name is None or not re.match(r"[/.~\\]|[A-Za-z]:\\|\w+://", name):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _load_profile(parameters: Mapping[str, Any]) -> LoadProfile:
    def text(name: str) -> str | None:
        value = parameters.get(name)
        return value if isinstance(value, str) else None

    def number(value: object) -> float | None:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def mean(name: str) -> float | None:
        tokens = parameters.get(name)
        if not isinstance(tokens, Mapping):
            return None
        if tokens.get("distribution") == "uniform":
            low, high = number(tokens.get("min")), number(tokens.get("max"))
            return None if low is None or high is None else (low + high) / 2
        return number(tokens.get("mean"))

    return LoadProfile(
        arrival=text("arrival"),
        rate=number(parameters.get("rate")),
        endpoint=text("endpoint"),
        prompt_tokens=mean("prompt_tokens"),
        output_tokens=mean("output_tokens"),
        request_timeout_s=time_out_s(parameters),
    )


def _metric_facts(samples: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> dict[tuple[str, str], MetricFacts]:
    distinct = samples[["service", "metric", "unit", "source"]].drop_duplicates(["service", "metric"])
    unit, source = (
        [str(name) if present else None for name, present in zip(distinct[of], distinct[of].notna(), strict=True)]
        for of in ("unit", "source")
    )
    named = zip(distinct["service"].astype(str), distinct["metric"].astype(str), unit, source, strict=True)
    facts = {
        (service, metric): MetricFacts(u, s if s in SOURCES or s is None else OTHER_SOURCE)
        for service, metric, u, s in named
    }
    return {column: facts[column] for column in columns}


def _service_facts(record: CaseRecord, services: tuple[str, ...], topology: pd.DataFrame) -> dict[str, ServiceFacts]:
    from tasks.case import RUNS_ON

    declared = {service.name: service for service in record.stack.services}
    placed = topology[(topology["relation"] == RUNS_ON).to_numpy()]
    hosts: dict[str, list[str]] = {service: [] for service in services}
    for service, host in zip(placed["source"].astype(str), placed["target"].astype(str), strict=True):
        hosts.setdefault(service, []).append(host)
    host_numbers: dict[str, str] = {}
    device_numbers: dict[str, str] = {}
    facts: dict[str, ServiceFacts] = {}
    for service in services:
        known = declared[service]
        seen = sorted({*hosts[service], *(known.node.split(",") if known.node and not hosts[service] else [])})
        limits = known.limits
        facts[service] = ServiceFacts(
            cpu_cores=limits.cpu_cores,
            memory_bytes=limits.memory_bytes,
            kv_cache_bytes=limits.kv_cache_bytes,
            max_model_len=limits.max_model_len,
            max_num_seqs=limits.max_num_seqs,
            hosts=tuple(host_numbers.setdefault(host, f"host-{len(host_numbers)}") for host in seen),
            devices=tuple(
                device_numbers.setdefault(device, f"device-{len(device_numbers)}") for device in known.devices
            ),
        )
    return facts


def _status(record: CaseRecord, signal: str, rows: int) -> SignalStatus:
    declared = record.completeness.get(signal)  # type: ignore[call-overload]  # any name: an old case may lack one
    if rows:
        return "partial" if declared is not None and declared.status == "partial" else "complete"
    if declared is None or not declared.recorded:
        return "not recorded"
    return "empty"
