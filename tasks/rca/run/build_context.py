"""Builds the context of a view from the record of a case. The record holds the answer, the context must not.

Nothing in a context names a case, a file or a fault. Free text of a data set (its origin, reasons of completeness,
names of its columns) is left out, since it may hold the names of folders, faults and services; hosts and devices are
numbered in the order of the view's services.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tasks.case import RUNS_ON, CaseRecord
from tasks.metrics import SOURCES
from tasks.rca.context import (
    OTHER_SOURCE,
    Context,
    LoadProfile,
    MetricFacts,
    ServiceFacts,
    SignalFacts,
    SignalStatus,
)
from tasks.requests import time_out_s

SOFTWARE = frozenset(
    {"cuda", "driver", "kubernetes", "metric_map", "nginx", "python", "ray", "sglang", "torch", "transformers", "vllm"}
)
"""The software whose versions a view shows."""
_VERSION = re.compile(r"v?\d[\w.+-]{0,40}")


def build_context(
    record: CaseRecord,
    services: tuple[str, ...],
    columns: Sequence[tuple[str, str]],
    samples: pd.DataFrame,
    topology: pd.DataFrame,
    tables: Mapping[str, tuple[int, int]],
) -> Context:
    """Return the context of a view.

    Args:
        services: the candidates, in the order of the view.
        columns: the (service, metric) of its metrics, in its order.
        samples: the visible metrics, long.
        tables: signal -> how many rows the case has and how many of them are visible.
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
    """Return the versions of known software. An importer's notes about a case neither have such a name nor look so."""
    return {
        name: versions[name] for name in sorted(SOFTWARE & versions.keys()) if _VERSION.fullmatch(str(versions[name]))
    }


def _plain_name(name: str | None) -> str | None:
    """Return the name of a model or an engine; the last part if it is a path or an address."""
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
        if not isinstance(tokens, Mapping) or parameters.get("arrival") == "trace":  # they limit its counts only
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
