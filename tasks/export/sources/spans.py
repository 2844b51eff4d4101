"""Spans of one window from OTLP files and the gateway's access log, joined into whole traces.

The client sends ``traceparent``; nginx logs it and passes it on unchanged, so the spans of Ray Serve's proxy and of
nginx both name the client's span as their parent, and a serving app that hands the request's headers to vLLM makes
``llm_request`` do the same. ``link_gateway`` puts them in their order::

    client -> nginx -> proxy_http_request -> route_to_replica -> replica_handle_request -> llm_request

A gateway with a tracer of its own (NGINX's OpenTelemetry module) sends that span itself and passes its context on: its
access log then only adds the time that it waited for its upstream.

``status_code`` is the HTTP status where a span has one, 500 for a span that OpenTelemetry marks as an error, else null.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd

from tasks.engine import ENGINE_SPAN
from tasks.export.sources.access_log import gateway_spans, read_access_log
from tasks.export.sources.otlp import SpanFilter, span_frame
from tasks.export.sources.otlp_files import read_otlp
from tasks.export.sources.trace_server import TraceServer
from tasks.left_out import LeftOut
from tasks.spans import span_ends

log = logging.getLogger(__name__)

ARRIVAL_SLACK_S = 30.0
"""Spans are sent in batches: those of the window may arrive this much after it."""
CLOCK_SLACK_NS = 5_000_000
"""The access log has milliseconds, and the clocks of two processes are read at different moments."""
REPLICA_SPAN = "replica_handle_request"


def read_spans(
    *,
    otlp: Iterable[Path],
    gateway: str | None,
    services: tuple[str, ...],
    start: datetime,
    end: datetime,
    margin_s: float,
    names: Mapping[str, str] | None = None,
    namespace: str | None = None,
    server: TraceServer | None = None,
    nginx_access_log: Path | None = None,
    requests: pd.DataFrame | None = None,
    others: pd.DataFrame | None = None,
    left_out: LeftOut | None = None,
) -> pd.DataFrame:
    """Return every span that overlaps ``[start - margin_s, end + margin_s]``, ordered by start.

    Args:
        otlp: files, or directories of files.
        names: pod, address ... -> service; None: only the services themselves.
        namespace: spans of pods that name another one are not the stack's.
        server: holds further spans.
        nginx_access_log: one JSON object per line.
        requests: entries of the gateway's access log that were read elsewhere.
        others: spans from elsewhere, used for services that have none otherwise.
        left_out: what could not be read is counted here.

    Returns:
        The columns of the spans signal plus ``upstream_s``: seconds that the gateway waited for its upstream (NaN for
        other spans). Spans of services that are not in ``services`` are left out.
    """
    from_ns = int((start.timestamp() - margin_s) * 1e9)
    to_ns = int((end.timestamp() + margin_s) * 1e9)
    known = dict(names) if names is not None else {service: service for service in services}
    wanted = SpanFilter(known, from_ns, to_ns, to_ns + int(ARRIVAL_SLACK_S * 1e9), namespace)
    frame = read_otlp(otlp, wanted, left_out)
    if server is not None:
        frame = pd.concat([frame, span_frame(server.rows(wanted, left_out))], ignore_index=True)
    entries = [requests] if requests is not None and not requests.empty else []
    if nginx_access_log is not None and nginx_access_log.exists():
        entries.append(read_access_log(nginx_access_log, from_ns, to_ns, left_out))
    if entries and gateway is not None:
        frame = add_gateway_spans(frame, gateway_spans(pd.concat(entries, ignore_index=True), gateway), gateway)
    if others is not None:
        frame = pd.concat([frame, others[~others["service"].isin(frame["service"].unique())]], ignore_index=True)
    strangers = ~frame["service"].isin(services)
    if strangers.any():
        log.warning(
            "%d spans of unknown services left out: %s", strangers.sum(), sorted(set(frame["service"][strangers]))[:10]
        )
    frame = frame[~strangers]
    frame = link_gateway(frame.drop_duplicates(["trace_id", "span_id"]), gateway)
    ends = span_ends(frame)
    starts = frame["start"].astype("int64")
    inside = (ends >= from_ns) & (starts <= to_ns)
    return frame[inside].sort_values(["start", "span_id"], kind="stable").reset_index(drop=True)


def add_gateway_spans(spans: pd.DataFrame, logged: pd.DataFrame, gateway: str) -> pd.DataFrame:
    """Add the spans of the access log. Where the gateway sent a span of the trace itself, only ``upstream_s`` is
    added."""
    own = spans[spans["service"].eq(gateway)]
    if own.empty:
        return pd.concat([spans, logged], ignore_index=True)
    waited = spans["upstream_s"].copy()
    for key in ("span_id", "trace_id"):
        by_key = logged.drop_duplicates(key).set_index(key)["upstream_s"]
        waited[own.index] = waited[own.index].fillna(own[key].map(by_key).astype("float64"))
    rest = logged[~logged["span_id"].isin(own["span_id"]) & ~logged["trace_id"].isin(own["trace_id"])]
    return pd.concat([spans.assign(upstream_s=waited), rest], ignore_index=True)


def link_gateway(spans: pd.DataFrame, gateway: str | None) -> pd.DataFrame:
    """Put the gateway's span between the client's and the stack's, and ``llm_request`` below its replica's span.

    A span that names the client's span as its parent, as the gateway's does, is moved: below the span
    ``replica_handle_request`` of its own trace and service that began last before it if there is one, else below the
    gateway's span of that trace that began last before it. So is ``llm_request`` when it names the gateway's own span.
    """
    at_gateway = spans["service"].eq(gateway or "")
    if not at_gateway.any():
        return spans
    spans = spans.reset_index(drop=True)
    at_gateway = spans["service"].eq(gateway or "")
    doors = spans[at_gateway & spans["parent_span_id"].notna()]
    pairs = pd.MultiIndex.from_frame(spans[["trace_id", "parent_span_id"]])
    client_pairs = pd.MultiIndex.from_frame(doors[["trace_id", "parent_span_id"]])
    below_door = pairs.isin(pd.MultiIndex.from_frame(spans.loc[at_gateway, ["trace_id", "span_id"]]))
    moved = spans[~at_gateway & (pairs.isin(client_pairs) | (below_door & spans["operation"].eq(ENGINE_SPAN)))]
    if moved.empty:
        return spans
    handlers = spans[spans["operation"].str.startswith(REPLICA_SPAN)]
    below_handler = _last_begun_before(
        moved[~moved["operation"].str.startswith(REPLICA_SPAN)], handlers, ["trace_id", "service"]
    )
    below_gateway = _last_begun_before(moved, doors, ["trace_id", "parent_span_id"])
    parents = below_handler.reindex(moved.index).fillna(below_gateway.reindex(moved.index))
    result = spans.copy()
    result.loc[moved.index, "parent_span_id"] = parents.fillna(moved["parent_span_id"])
    return result


def _last_begun_before(spans: pd.DataFrame, parents: pd.DataFrame, by: list[str]) -> pd.Series:
    """Return the span id of the parent with equal ``by`` columns that began last before each span; indexed like
    ``spans``."""
    texts = dict.fromkeys(by, "string")  # also where there are no rows: merge_asof wants equal types
    left = spans[by].astype(texts).assign(at=spans["start"].astype("int64") + CLOCK_SLACK_NS, row=spans.index)
    right = parents[by].astype(texts).assign(at=parents["start"].astype("int64"), found=parents["span_id"])
    joined = pd.merge_asof(left.sort_values("at"), right.sort_values("at"), on="at", by=by)
    return pd.Series(joined["found"].to_numpy(), index=joined["row"].to_numpy(), dtype="string")
