"""Spans and log lines of simulated requests, as nginx, Ray Serve and vLLM write them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tasks.backends.simulated.params import FIRST_REPLICA, GATEWAY_INDEX, HEAD_INDEX

if TYPE_CHECKING:
    from tasks.backends.simulated.engine import Served
    from tasks.backends.simulated.simulation import Paths

SPAN_COLUMNS = (
    "trace_id", "span_id", "parent_span_id", "service", "operation", "start_s", "duration", "status_code", "attributes"
)  # fmt: skip
ROUTE = "POST /v1/chat/completions"
OPERATIONS = (
    ROUTE,
    f"proxy_http_request VLLMReplica {ROUTE}",
    "route_to_replica VLLMReplica __call__",
    "replica_handle_request VLLMReplica __call__",
    "llm_request",
)

NEW_VERSION = "Replica {} runs a new version."
ADDED = "Replica {} was added."


@lru_cache(maxsize=1)
def identifiers(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return request ids, trace ids and five span ids per request, shape (count,), (count,), (count, 5): read
    only, and kept for whoever looks at the same case again and again."""
    rng = np.random.default_rng(seed)
    prefix = f"{int(rng.integers(2**32)):08x}"
    numbers = rng.integers(0, 2**63, size=(count, 7), dtype=np.int64)
    requests = np.array([f"{prefix}-{i:06x}" for i in range(count)], dtype=object)
    traces = np.array([f"{a:016x}{b:016x}" for a, b in numbers[:, :2]], dtype=object)
    spans = np.array([[f"{number:016x}" for number in row] for row in numbers[:, 2:]], dtype=object).reshape(count, 5)
    for table in (requests, traces, spans):
        table.setflags(write=False)
    return requests, traces, spans


def span_rows(
    paths: Paths,
    served: Served,
    names: Sequence[str],
    ids: tuple[np.ndarray, np.ndarray, np.ndarray],
    traced: np.ndarray,
    end_s: float,
) -> pd.DataFrame:
    """Return the spans of the ``traced`` requests that had ended by ``end_s``; ``start_s`` counts from the start of
    the load. A span whose end never came is not written."""
    _, trace, span = ids
    replica = FIRST_REPLICA + served.replica
    starts_ends = (
        (np.where(paths.refused, np.nan, paths.sent), paths.last_token, np.full(len(replica), GATEWAY_INDEX)),
        (paths.at_head, paths.back_at_gateway, np.full(len(replica), HEAD_INDEX)),
        (paths.at_head + 0.0004, served.received_s, np.full(len(replica), HEAD_INDEX)),
        (served.received_s, paths.left_replica, replica),
        (served.arrived_s, served.last_s, replica),
    )
    frames = []
    for level, (start, end, service) in enumerate(starts_ends):
        if level == 0:  # nginx logs a request that its client gave up, too
            end = np.where(np.isnan(end), paths.gave_up, end)
        there = np.flatnonzero(traced & ~np.isnan(start) & ~np.isnan(end) & (end <= end_s))
        status = np.where(np.isnan(paths.last_token[there]), 499.0, 200.0)
        status[served.lost[there]] = 500.0
        frames.append(
            pd.DataFrame(
                {
                    "trace_id": trace[there],
                    "span_id": span[there, level],
                    "parent_span_id": span[there, level - 1] if level else None,
                    "service": np.array(names, dtype=object)[service[there]],
                    "operation": OPERATIONS[level],
                    "start_s": start[there],
                    "duration": end[there] - start[there],
                    "status_code": np.full(len(there), np.nan) if level in (2, 4) else status,
                    "attributes": _attributes(level, there, paths, served),
                }
            )
        )
    return pd.concat(frames, ignore_index=True).sort_values(["start_s", "span_id"], ignore_index=True)


def _attributes(
    level: int,
    there: np.ndarray,
    paths: Paths,
    served: Served,
) -> list[str]:
    if level == 0:
        waited = paths.back_at_gateway[there] - paths.left_gateway[there]
        return [
            f'{{"nginx.upstream_response_time":"{each:.3f}","span.kind":"server","source":"simulated"}}'
            if each == each
            else '{"span.kind":"server","source":"simulated"}'
            for each in waited
        ]
    if level < 4:
        return ['{"span.kind":"server","source":"simulated"}'] * len(there)
    handover = served.queued_s[there] - served.arrived_s[there]
    queue = served.admitted_s[there] - served.queued_s[there]
    prefill = served.first_s[there] - served.admitted_s[there]
    decode = served.last_s[there] - served.first_s[there]
    return [
        f'{{"gen_ai.latency.time_to_first_token":{h + q + p:.6f},"gen_ai.latency.e2e":{h + q + p + d:.6f},'
        f'"gen_ai.latency.time_in_queue":{q:.6f},"gen_ai.usage.prompt_tokens":{i},'
        f'"gen_ai.usage.completion_tokens":{o},"gen_ai.latency.time_in_model_prefill":{p:.6f},'
        f'"gen_ai.latency.time_in_model_decode":{d:.6f},"span.kind":"server","source":"simulated"}}'
        for h, q, p, d, i, o in zip(
            handover, queue, prefill, decode, paths.prompt_tokens[there], paths.output_tokens[there], strict=True
        )
    ]


def log_rows(
    paths: Paths,
    served: Served,
    names: Sequence[str],
    ids: tuple[np.ndarray, np.ndarray, np.ndarray],
    traced: np.ndarray,
    restarts: Sequence[tuple[int, float, float]],
    rollouts: Sequence[tuple[float, int, str]],
    end_s: float,
) -> pd.DataFrame:
    """Return the lines that gateway, head and replicas write per request, those of a restart, and the head's of a
    rollout: ``restarts`` has (service, killed, serves again), ``rollouts`` (time, service, text). Columns ``time_s``,
    ``service``, ``level``, ``message``."""
    requests = ids[0]
    rows: list[tuple[float, str, str, str]] = []
    lasted = (paths.last_token - paths.sent) * 1e3
    for i in np.flatnonzero(traced & (paths.last_token <= end_s)):
        rows.append((paths.last_token[i], names[GATEWAY_INDEX], "info", f"{ROUTE} 200"))
        line = f"-- {ROUTE} 200 {lasted[i]:.1f}ms"
        rows.append((paths.back_at_gateway[i], names[HEAD_INDEX], "info", f"proxy {requests[i]} {line}"))
        replica = names[FIRST_REPLICA + served.replica[i]]
        rows.append((paths.left_replica[i], replica, "info", f"llm_VLLMReplica {requests[i]} {line}"))
    for i in np.flatnonzero(traced & np.isnan(paths.last_token) & (paths.gave_up <= end_s) & ~np.isnan(paths.at_head)):
        text = f"proxy {requests[i]} -- Client for request {requests[i]} disconnected, cancelling request."
        rows.append((paths.gave_up[i], names[HEAD_INDEX], "info", text))
    for service, killed, back in restarts:
        if service >= FIRST_REPLICA:
            text = f"Replica {names[service]} died unexpectedly; starting a new one."
            rows.append((killed + 0.5, names[HEAD_INDEX], "warning", text))
        if back <= end_s:
            rows.append((back, names[service], "info", "Started."))
    rows += [(at_s, names[HEAD_INDEX], "info", text.format(names[service])) for at_s, service, text in rollouts]
    table = pd.DataFrame(rows, columns=["time_s", "service", "level", "message"])
    return table.sort_values(["time_s", "service"], ignore_index=True)
