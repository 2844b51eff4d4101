"""Derives metrics per service from spans: latency as the caller sees it, time spent in the service itself and in its
engine, and the gateway's request and error rate. Each value is over the spans that ended in the window before its time.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks import metrics
from tasks.engine import DECODE_TIME, ENGINE_SPAN, OUTPUT_TOKENS
from tasks.export.grid import TimeGrid
from tasks.metrics import Metric, Source
from tasks.spans import link_spans, span_ends

SOURCE: Source = "spans"
LATENCY_QUANTILES = {metrics.LATENCY_P50: 0.5, metrics.LATENCY_P90: 0.9}
ENGINE_TIMES = {
    metrics.TTFT_MEAN: "gen_ai.latency.time_to_first_token",
    metrics.QUEUE_TIME_MEAN: "gen_ai.latency.time_in_queue",
    metrics.PREFILL_TIME_MEAN: "gen_ai.latency.time_in_model_prefill",
    metrics.DECODE_TIME_MEAN: DECODE_TIME,
    metrics.E2E_LATENCY_MEAN: "gen_ai.latency.e2e",
}
"""Metric -> attribute of vLLM's span, in seconds."""
SERVE_SPANS = ("proxy_http_request", "replica_handle_request")
CLIENT_GAVE_UP = 499
SERVER_ERROR = 500


def derive_metrics(spans: pd.DataFrame, gateway: str | None, grid: TimeGrid, window_s: float) -> pd.DataFrame:
    """Return every metric that the spans allow, as rows of the metrics signal. A service that has spans of the kind has
    rows on the whole grid, NaN where none ended in the window."""
    frames = [
        latency_metrics(calls_into_services(spans), grid, window_s),
        engine_metrics(spans, grid, window_s),
        serve_metrics(spans, grid, window_s),
    ]
    if gateway is not None:
        frames.append(gateway_metrics(spans, gateway, grid, window_s))
    return _rows([frame for frame in frames if not frame.empty])


def calls_into_services(spans: pd.DataFrame) -> pd.DataFrame:
    """Return each call into a service as its caller sees it (what a mesh waypoint would measure).

    A call is a span whose parent belongs to another service or is not known. Its duration is that of the innermost
    span of the caller that lasts at least as long (Ray's ``route_to_replica`` ends when the replica accepts the
    request, so the span around it counts); for the gateway it is the time that the gateway waited for its upstream. A
    call without a known caller has the duration of the service's own span.

    Returns:
        Columns ``service``, ``caller`` (null when not known), ``end`` (ns since the epoch), ``duration`` (s),
        ``status_code``.
    """
    names = spans["service"].to_numpy(dtype=object)
    service = pd.factorize(names)[0]
    traces, ends = link_spans(spans), span_ends(spans)
    call = traces.calls(service)
    caller = traces.caller_span(call, service, ends)
    seen_by = np.where(caller >= 0, caller, call)
    upstream = np.where(caller >= 0, spans["upstream_s"].to_numpy(dtype=float)[seen_by], np.nan)
    duration = spans["duration"].to_numpy(dtype=float)[seen_by]
    return pd.DataFrame(
        {
            "service": pd.Series(names[call], dtype="string"),
            "caller": pd.Series(names[seen_by], dtype="string").where(caller >= 0),
            "end": ends[seen_by],
            "duration": np.where(np.isnan(upstream), duration, upstream),
            "status_code": spans["status_code"].to_numpy()[call],
        }
    )


def windows_of(ends_ns: np.ndarray, grid: TimeGrid, window_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Match events with the grid times ``t`` in whose window ``(t - window_s, t]`` they fall.

    Returns:
        ``(event, step)``: positions of equal length; an event is in as many windows as overlap it.
    """
    offsets = ends_ns / 1e6 - grid.start_ms
    first = np.ceil(offsets / grid.step_ms).astype(np.int64)
    most = int(np.ceil(window_s * 1000 / grid.step_ms))
    event = np.repeat(np.arange(len(ends_ns)), most)
    step = np.repeat(first, most) + np.tile(np.arange(most), len(ends_ns))
    inside = (step >= 0) & (step < grid.steps) & (offsets[event] > step * grid.step_ms - window_s * 1000)
    return event[inside], step[inside]


def latency_metrics(calls: pd.DataFrame, grid: TimeGrid, window_s: float) -> pd.DataFrame:
    """Return ``latency_p50`` and ``latency_p90`` of the calls that ended in the window before each grid time.

    Rows of the metrics signal, on the whole grid for every service that was called; NaN where no call ended.
    """
    if calls.empty:
        return _rows([])
    event, step = windows_of(calls["end"].to_numpy(), grid, window_s)
    services = calls["service"].to_numpy(dtype=object)
    grouped = pd.Series(calls["duration"].to_numpy()[event]).groupby([services[event], step])
    index = pd.MultiIndex.from_product([sorted(set(services)), range(grid.steps)])
    return _rows([_metric(metric, grouped.quantile(q).reindex(index), grid) for metric, q in LATENCY_QUANTILES.items()])


def engine_metrics(spans: pd.DataFrame, grid: TimeGrid, window_s: float) -> pd.DataFrame:
    """Return means over the engine's requests of the times that vLLM puts on its span."""
    engine = spans[spans["operation"].eq(ENGINE_SPAN)]
    if engine.empty:
        return _rows([])
    means = {
        metric: (number_attribute(engine, attribute), np.ones(len(engine)))
        for metric, attribute in ENGINE_TIMES.items()
    }
    gaps = np.maximum(number_attribute(engine, OUTPUT_TOKENS) - 1, 0)
    means[metrics.INTER_TOKEN_LATENCY_MEAN] = (number_attribute(engine, ENGINE_TIMES[metrics.DECODE_TIME_MEAN]), gaps)
    return _means(engine, means, grid, window_s)


def serve_metrics(spans: pd.DataFrame, grid: TimeGrid, window_s: float) -> pd.DataFrame:
    """Return the mean time that Ray Serve's proxy or replica spent on a request, without the way to it."""
    own = spans[spans["operation"].str.startswith(SERVE_SPANS)]
    if own.empty:
        return _rows([])
    durations = own["duration"].to_numpy(dtype=float)
    return _means(own, {metrics.SERVE_PROCESSING_LATENCY_MEAN: (durations, np.ones(len(own)))}, grid, window_s)


def number_attribute(spans: pd.DataFrame, name: str) -> np.ndarray:
    """Return the value of a numeric attribute of each span, NaN where it has none. Shape (n,)."""
    pattern = '"' + name.replace(".", r"\.") + r'":(?P<number>-?[0-9.]+(?:[eE][-+]?[0-9]+)?)'
    text = pa.array(spans["attributes"], pa.string(), from_pandas=True)
    if isinstance(text, pa.ChunkedArray):  # spans that were put together from several sources
        text = text.combine_chunks()
    found = pc.extract_regex(text, pattern)
    return pd.to_numeric(found.field(0).to_pandas(), errors="coerce").to_numpy(dtype=float)


def _means(
    spans: pd.DataFrame, parts: dict[Metric, tuple[np.ndarray, np.ndarray]], grid: TimeGrid, window_s: float
) -> pd.DataFrame:
    """Return ``sum(numerator) / sum(denominator)`` per service and window, for each metric. Spans without a numerator
    do not count."""
    event, step = windows_of(span_ends(spans), grid, window_s)
    services = spans["service"].to_numpy(dtype=object)
    index = pd.MultiIndex.from_product([sorted(set(services)), range(grid.steps)])
    frames = []
    for metric, (numerator, denominator) in parts.items():
        counted = ~np.isnan(numerator[event]) & ~np.isnan(denominator[event])
        at = [services[event][counted], step[counted]]
        above = pd.Series(numerator[event][counted]).groupby(at).sum()
        below = pd.Series(denominator[event][counted]).groupby(at).sum()
        frames.append(_metric(metric, (above / below.where(below > 0)).reindex(index), grid))
    return _rows(frames)


def gateway_metrics(spans: pd.DataFrame, gateway: str, grid: TimeGrid, window_s: float) -> pd.DataFrame:
    """Return ``request_rate`` and ``error_rate`` of the gateway (server errors, and clients that gave up), per
    second."""
    own = spans[spans["service"].eq(gateway)]
    if own.empty:
        return _rows([])
    event, step = windows_of(span_ends(own), grid, window_s)
    status = own["status_code"].fillna(0).to_numpy(dtype=np.int64)[event]
    failed = (status >= SERVER_ERROR) | (status == CLIENT_GAVE_UP)
    index = pd.MultiIndex.from_product([[gateway], range(grid.steps)])
    counts = {
        metrics.REQUEST_RATE: np.bincount(step, minlength=grid.steps),
        metrics.ERROR_RATE: np.bincount(step[failed], minlength=grid.steps),
    }
    return _rows([_metric(metric, pd.Series(count / window_s, index=index), grid) for metric, count in counts.items()])


def _metric(metric: Metric, values: pd.Series, grid: TimeGrid) -> pd.DataFrame:
    """Return ``values``, indexed by (service, step), as rows of the metrics signal."""
    times = pd.to_datetime(grid.times_ns, unit="ns", utc=True)
    return pd.DataFrame(
        {
            "time": times[values.index.get_level_values(1)],
            "service": values.index.get_level_values(0),
            "metric": metric.name,
            "value": values.to_numpy(dtype=float),
            "unit": metric.unit,
            "source": SOURCE,
        }
    )


def _rows(frames: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["time", "service", "metric", "value", "unit", "source"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
