"""Synthetic cases for tests: a small stack with a fault planted on one service. Made-up numbers, the real contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.case import Case, CaseRecord, CaseWriter, Completeness, LoadRecord, Phase, Service, Stack
from tasks.deploy.local.params import LocalDeployParams
from tasks.injection import Injection, Interval, ProbeRecord

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNITS = {
    "cpu_usage": "cores",
    "memory_working_set": "bytes",
    "network_receive": "bytes/s",
    "network_transmit": "bytes/s",
    "accelerator_utilization": "ratio",
    "latency_p50": "s",
    "latency_p90": "s",
    "requests_running": "requests",
    "requests_waiting": "requests",
    "ttft_mean": "s",
    "inter_token_latency_mean": "s",
    "generation_tokens_rate": "tokens/s",
}
LEVELS = {
    "cpu_usage": 0.2,
    "memory_working_set": 1.2e9,
    "network_receive": 4e4,
    "network_transmit": 6e4,
    "accelerator_utilization": 0.4,
    "latency_p50": 0.25,
    "latency_p90": 0.4,
    "requests_running": 0.8,
    "requests_waiting": 0.05,
    "ttft_mean": 0.05,
    "inter_token_latency_mean": 0.012,
    "generation_tokens_rate": 16.0,
}


def synthetic_case(
    cases_dir: Path,
    case_id: str = "case-0001",
    *,
    kind: str | None = "cpu-stress",
    target: str = "ray-replicas-1",
    seen_on: str | None = None,
    replicas: int = 3,
    baseline_s: int = 25,
    fault_s: int = 25,
    recovery_s: int = 10,
    strength: float = 8.0,
    verdict: str = "effective",
    seed: int = 0,
    rate: float = 3.0,
) -> Case:
    """Write and return a case whose ``target`` shows ``strength`` sigmas of every metric while the fault is on.

    ``kind=None`` gives a fault-free case; ``seen_on`` has another service show it: no method can find the target.
    """
    rng = np.random.default_rng(seed)
    deploy = LocalDeployParams(backend="local", replicas=1).model_copy(update={"replicas": replicas})
    roles = deploy.roles()
    start, fault = T0, T0 + timedelta(seconds=baseline_s)
    recovery, end = fault + timedelta(seconds=fault_s), fault + timedelta(seconds=fault_s + recovery_s)
    seconds = baseline_s + fault_s + recovery_s
    times = pd.date_range(start, periods=seconds, freq="1s").as_unit("ns")
    in_fault = (np.arange(seconds) >= baseline_s) & (np.arange(seconds) < baseline_s + fault_s)

    frames = []
    for service in roles:
        for metric, level in LEVELS.items():
            if metric.startswith(("requests_", "ttft", "inter_", "generation")) and roles[service] != "replica":
                continue
            sigma = 0.08 * level
            values = level + sigma * rng.standard_normal(seconds)
            if kind is not None and service == (seen_on or target):
                values = values + strength * sigma * in_fault
            if kind is not None and service == "nginx-proxy" and metric.startswith("latency"):
                values = values + 0.5 * strength * sigma * in_fault
            frames.append(
                pd.DataFrame(
                    {
                        "time": times,
                        "service": service,
                        "metric": metric,
                        "value": np.abs(values),
                        "unit": UNITS[metric],
                        "source": "synthetic",
                    }
                )
            )

    n = max(1, int(seconds * rate))
    offsets = np.sort(rng.uniform(0, seconds, n))
    replica = rng.integers(0, replicas, n)
    slow = (offsets >= baseline_s) & (offsets < baseline_s + fault_s) & (kind is not None)
    hit = slow & (np.array([f"ray-replicas-{i}" for i in replica]) == target)
    ttft = rng.gamma(9, 0.005, n) * np.where(hit, 1 + strength, 1)
    decode = rng.gamma(16, 0.012, n) * np.where(hit, 1 + strength, 1)
    scheduled = pd.Timestamp(start) + pd.to_timedelta(offsets, unit="s").as_unit("ns")
    first = scheduled + pd.to_timedelta(ttft, unit="s")
    last = first + pd.to_timedelta(decode, unit="s")
    trace_ids = [f"{i:032x}" for i in range(1, n + 1)]
    requests = pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(n)],
            "trace_id": trace_ids,
            "scheduled": scheduled,
            "sent": scheduled + pd.Timedelta("1ms"),
            "first_token": first,
            "last_token": last,
            "tokens_in": rng.integers(8, 64, n),
            "tokens_out": 16,
            "status": 200,
            "error": None,
        }
    )
    spans = pd.concat([_spans(trace_ids, scheduled, ttft + decode, replica, depth) for depth in range(3)])
    logs = pd.DataFrame(
        {
            "time": scheduled,
            "service": "nginx-proxy",
            "level": "info",
            "message": "POST /v1/chat/completions 200",
            "template_id": None,
        }
    )
    calls = [("nginx-proxy", "ray-head")] + [("ray-head", s) for s, role in roles.items() if role == "replica"]
    topology = pd.DataFrame(
        [("calls", a, b) for a, b in calls] + [("runs_on", s, f"node-{s}") for s in roles],
        columns=["relation", "source", "target"],
    )
    injections = ()
    if kind is not None:
        window = Interval(start=fault, end=recovery)
        injections = (
            Injection(
                kind=kind,
                target=target,
                parameters={},
                executor="synthetic",
                planned=window,
                observed=window,
                verified=window,
                probe=ProbeRecord(name="synthetic", unit="ratio", before=0.1, during=0.9, after=0.1),
                verdict=verdict,
                reason="planted",
            ),
        )
    phases = [
        Phase(name="baseline", start=start, end=fault),
        Phase(name="fault", start=fault, end=recovery),
        Phase(name="recovery", start=recovery, end=end),
    ]
    record = CaseRecord(
        case_id=case_id,
        campaign="synthetic",
        front_end="nginx-proxy",
        phases=tuple(phases),
        injections=injections,
        seed=seed,
        stack=Stack(
            backend="synthetic",
            parallelism={"data": replicas, "tensor": 1, "pipeline": 1},
            services=tuple(Service(name=s, role=role, node=f"node-{s}") for s, role in roles.items()),
        ),
        load=LoadRecord(requests=n, verdict="on-schedule"),
        completeness={s: Completeness(status="complete") for s in ("metrics", "requests", "logs", "spans", "topology")},
    )
    with CaseWriter(cases_dir, case_id) as writer:
        writer.write("metrics", pd.concat(frames, ignore_index=True))
        writer.write("requests", requests)
        writer.write("logs", logs)
        writer.write("spans", spans)
        writer.write("topology", topology)
        return writer.finish(record)


def _spans(
    trace_ids: list[str], start: pd.DatetimeIndex, total: np.ndarray, replica: np.ndarray, depth: int
) -> pd.DataFrame:
    names: list[Any] = [
        ["nginx-proxy"] * len(replica),
        ["ray-head"] * len(replica),
        [f"ray-replicas-{i}" for i in replica],
    ]
    operations = ["POST /v1/chat/completions", "route_to_replica", "llm_request"]
    return pd.DataFrame(
        {
            "trace_id": trace_ids,
            "span_id": [f"{t[-14:]}{depth:02x}" for t in trace_ids],
            "parent_span_id": [f"{t[-14:]}{depth - 1:02x}" if depth else None for t in trace_ids],
            "service": names[depth],
            "operation": operations[depth],
            "start": start + pd.Timedelta(milliseconds=2 * depth),
            "duration": np.maximum(total - 0.004 * depth, 1e-4),
            "status_code": 200,
            "attributes": json.dumps({}),
        }
    )
