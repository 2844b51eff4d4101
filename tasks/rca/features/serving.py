"""Columns that tell a serving stack's inside from its outside: raw metrics by service, and what is derived from them.

A *column* is a table (rows, services) on the rows of ``view.metrics`` and the services of ``view.services``; NaN: no
sample. Derived columns and what they show:

* **gap** (s): how long a caller waited for a call beyond what the callee took for it. A slow link shows here, and
  nothing inside the callee does. ``request_leg`` is the part before the callee began: a slow sender delays it, a slow
  answerer does not. The first gap is that between the load's clients and the front end.
* **cpu_beyond_load**, **step_beyond_load**: CPU, and time per generated token, over what the load explains at most:
  twice the work may cost twice the CPU, twice the batch twice the time per step. Less of either explains nothing.
* **stopped**, **mute**, **silent** (shares): steps at which the service used no CPU, sent nothing, completed nothing
  although it may have been **asked** (1 requests are in it, 0 none is, NaN not known): who has nothing to do is idle.
* **unheard** (share): scrapes of Prometheus that it did not answer.
* **cut** (share): the front end went away and took requests with it that it had accepted.
* **vanished** (log ratio): how far memory or processes fell below their usual level: processes ended.
* **quota** (cores): CPU over its share of the quota, where a CPU quota stands in for an accelerator's limit.

Time is taken from metrics where there are any, else from the attributes of the engine's spans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks import metrics as vocabulary
from tasks.rca.features.rows import quantile_per_cell, row_of
from tasks.rca.features.spans import SpanTable, link_traces, span_table
from tasks.rca.method import Coverage
from tasks.rca.view import CaseView
from tasks.spans import Traces

STOPPED_SHARE = 0.03
"""Below this share of its normal CPU a service does not even idle: an idle Ray replica keeps a third, NGINX a fifth."""
MUTE_SHARE = 0.002
"""Below this share of its normal traffic nothing leaves a service: a frozen one still acknowledges (1 %)."""
SILENT_SHARE = 0.03
BUSY_SHARE = 0.05
"""From this share of active SM time on a GPU is not idle."""
SMOOTH_S = 5.0
"""Work is averaged over so many seconds, the window of rates: single arrivals say nothing about load."""


DERIVED = frozenset(
    {
        *(
            "gap",
            "request_leg",
            "client_gap",
            "refused",
            "started",
            "completed",
            "busy",
            "cpu_beyond_load",
            "step_beyond_load",
        ),
        *("cut", "stopped", "mute", "unheard", "done", "asked", "silent", "vanished", "quota", "gpu_clock_busy"),
    }
)
"""Columns that are not a metric as it was recorded."""


@dataclass(frozen=True)
class Serving:
    """``columns``: name -> (rows, services). ``coverage``: which evidence there is. ``callees``: caller -> callees,
    positions."""

    services: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    coverage: Coverage
    callees: Mapping[int, tuple[int, ...]]

    def get(self, name: str) -> np.ndarray | None:
        return self.columns.get(name)


@dataclass(frozen=True)
class Recorded:
    """What of :class:`Serving` does not depend on which rows are normal."""

    columns: Mapping[str, np.ndarray]
    callees: Mapping[int, tuple[int, ...]]


def recorded_columns(view: CaseView) -> Recorded:
    """Return the metrics by service and what spans and requests tell. O(services x metrics x rows + spans log
    spans)."""
    columns = metric_tables(view)
    callees: dict[int, tuple[int, ...]] = _declared_callees(view)
    if len(view.spans) and len(view.metrics):
        table, traces = span_table(view), link_traces(view)
        calls = _calls(view, table, traces)
        columns |= calls.columns
        callees = calls.callees or callees
        columns |= _clients(view, _span_times(view, table))
        if "step" not in columns and (engine := _engine_spans(view)):
            columns |= engine
    elif "latency" in columns and "processing" in columns:
        columns["gap"] = columns["latency"] - columns["processing"]
        columns |= _clients(view, None)
    return Recorded(columns, callees)


def serving_columns(view: CaseView, before: np.ndarray, recorded: Recorded | None = None) -> Serving:
    """Return the columns of ``view``. ``before``: (rows,) bool, the rows that say what is normal; ``recorded``: of the
    same view, if it is known already. O(services x metrics x rows)."""
    recorded = recorded or recorded_columns(view)
    columns = dict(recorded.columns)
    coverage = _coverage(view, columns, before)
    columns |= _derived(view, columns, before)
    return Serving(view.services, columns, coverage, recorded.callees)


_RAW = {
    vocabulary.CPU_USAGE.name: "cpu",
    vocabulary.MEMORY_RSS.name: "memory",
    vocabulary.MEMORY_WORKING_SET.name: "working_set",
    vocabulary.MEMORY_LIMIT_HITS.name: "memory_limit_hits",
    vocabulary.CPU_THROTTLED.name: "cpu_throttled",
    vocabulary.ACCELERATOR_UTILIZATION.name: "utilization",
    vocabulary.NETWORK_TRANSMIT.name: "transmit",
    vocabulary.NETWORK_RECEIVE.name: "receive",
    vocabulary.NETWORK_RETRANSMITS.name: "retransmits",
    vocabulary.PROCESSES.name: "processes",
    vocabulary.SCRAPE_SUCCESS.name: "scraped",
    vocabulary.RESTARTS_RATE.name: "restarts",
    vocabulary.PODS_READY.name: "ready",
    vocabulary.INTER_TOKEN_LATENCY_MEAN.name: "step",
    vocabulary.REQUESTS_RUNNING.name: "running",
    vocabulary.REQUESTS_WAITING.name: "waiting",
    vocabulary.GENERATION_TOKENS_RATE.name: "tokens",
    vocabulary.PROMPT_TOKENS_RATE.name: "prompt_tokens",
    vocabulary.REQUEST_RATE.name: "request_rate",
    vocabulary.ERROR_RATE.name: "errors",
    vocabulary.SERVE_ONGOING_REQUESTS.name: "ongoing",
    vocabulary.PREEMPTIONS_RATE.name: "preemptions",
    vocabulary.KV_CACHE_USAGE.name: "kv_cache",
    vocabulary.SERVE_PROCESSING_LATENCY_MEAN.name: "processing",
    vocabulary.LATENCY_P50.name: "latency",
    vocabulary.LATENCY_P90.name: "latency_p90",
    vocabulary.GPU_SM_CLOCK.name: "gpu_clock",
    vocabulary.GPU_SM_ACTIVE.name: "gpu_active",
    vocabulary.GPU_POWER.name: "gpu_power",
    vocabulary.GPU_POWER_LIMIT.name: "gpu_power_limit",
    vocabulary.GPU_POWER_VIOLATION.name: "gpu_power_violation",
    vocabulary.GPU_THERMAL_VIOLATION.name: "gpu_thermal_violation",
    vocabulary.GPU_MEMORY_USED.name: "gpu_memory",
}
EVIDENCE: Mapping[str, tuple[str, ...]] = {
    "CPU": ("cpu",),
    "memory": ("memory", "working_set"),
    "network traffic": ("transmit",),
    "processes": ("processes", "restarts", "ready"),
    "decode step times": ("step",),
    "tokens": ("tokens",),
    "GPU clocks": ("gpu_clock",),
    "GPU limits": ("gpu_power_limit", "gpu_power_violation", "gpu_thermal_violation"),
}
"""What people call the columns that tell of the inside of a service; spans and requests come beside them."""
PART = 0.5
"""The metrics of a service are missing if after the inject time less than this share of its usual samples came."""


def _coverage(view: CaseView, columns: Mapping[str, np.ndarray], before: np.ndarray) -> Coverage:
    """Return which evidence there is: of any service, and whose metrics stopped."""
    there = {
        name: any(np.isfinite(columns[column]).any() for column in of if column in columns)
        for name, of in EVIDENCE.items()
    }
    there |= {"spans": len(view.spans) > 0, "requests": len(view.requests) > 0}
    lacking = [name for name, seen in there.items() if not seen]
    inside = [columns[name] for of in EVIDENCE.values() for name in of if name in columns and name in _RAW.values()]
    if inside and before.any() and not before.all():
        samples = np.isfinite(np.stack(inside)).sum(axis=0)
        usual, now = samples[before].mean(axis=0), samples[~before].mean(axis=0)
        lacking += [f"metrics of {view.services[i]}" for i in np.flatnonzero(now < PART * usual).tolist()]
    return Coverage(tuple(name for name, seen in there.items() if seen), tuple(lacking))


def metric_tables(view: CaseView) -> dict[str, np.ndarray]:
    """Return the metrics that the method knows, each as (rows, services)."""
    services = pd.Index(view.services)
    owner = services.get_indexer(view.metrics.columns.get_level_values(0))
    names = view.metrics.columns.get_level_values(1)
    code, known = pd.factorize(names)
    values = view.metrics.to_numpy(dtype=float)
    tables: dict[str, np.ndarray] = {}
    for i, name in enumerate(known):
        if name not in _RAW:
            continue
        chosen = np.flatnonzero((code == i) & (owner >= 0))
        table = np.full((len(values), len(services)), np.nan)
        table[:, owner[chosen]] = values[:, chosen]
        tables[_RAW[name]] = np.where(np.isfinite(table), table, np.nan)
    return tables


def _declared_callees(view: CaseView) -> dict[int, tuple[int, ...]]:
    position = {service: i for i, service in enumerate(view.services)}
    rows = view.topology[(view.topology["relation"] == "calls").to_numpy()]
    found: dict[int, set[int]] = {}
    for caller, callee in zip(rows["source"].astype(str), rows["target"].astype(str), strict=True):
        if caller in position and callee in position and caller != callee:
            found.setdefault(position[caller], set()).add(position[callee])
    return {caller: tuple(sorted(named)) for caller, named in found.items()}


@dataclass(frozen=True)
class _Calls:
    columns: dict[str, np.ndarray]
    callees: dict[int, tuple[int, ...]]


def _calls(view: CaseView, table: SpanTable, traces: Traces) -> _Calls:
    """Return gaps and request legs by callee (``gap``) and by caller (``gap_out``), and completed calls per step."""
    index = pd.DatetimeIndex(view.metrics.index)
    size = len(view.services)
    service = pd.Index(view.services).get_indexer(pd.Index(table.services))[table.service]
    rows = row_of(index, table.end, view.step_ns)
    callers = traces.callers(service)
    call = np.flatnonzero((service >= 0) & (callers != service))
    completed = _counts(rows[call], service[call], (len(index), size))
    began = row_of(index, table.start[call], view.step_ns)
    columns = {"started": _counts(began, service[call], completed.shape)}
    columns |= {"completed": completed, "busy": _sums(rows[call], service[call], table.duration[call], completed.shape)}
    known = call[callers[call] >= 0]
    around = traces.caller_span(known, service, table.duration)
    caller, callee = service[around], service[known]
    gap = table.duration[around] - table.duration[known]
    leg = (table.start[known] - table.start[around]) / 1e9
    columns["gap"] = _means(rows[known], callee, gap, completed.shape)
    columns["request_leg"] = _means(rows[known], callee, leg, completed.shape)
    pairs = np.unique(caller * size + callee)
    callees: dict[int, list[int]] = {}
    for pair in pairs.tolist():
        callees.setdefault(pair // size, []).append(pair % size)
    return _Calls(columns, {u: tuple(v) for u, v in callees.items()})


def _span_times(view: CaseView, table: SpanTable) -> pd.Series:
    """Return how long the front end's span of each trace lasted, s."""
    front = pd.Index(table.services).get_indexer(pd.Index([view.front_end]))[0]
    chosen = np.flatnonzero(table.service == front)
    duration = view.spans["duration"].to_numpy(dtype=float)
    trace = view.spans["trace_id"].to_numpy()[np.isfinite(duration) & (duration >= 0)]
    return pd.Series(table.duration[chosen]).groupby(trace[chosen]).max()


def _clients(view: CaseView, inside: pd.Series | None) -> dict[str, np.ndarray]:
    """Return the gap between the clients and the front end, and the share of requests that failed before it saw them.

    ``inside``: s per trace, what the front end took; None: its latency metric.
    """
    requests = view.requests
    if not len(requests):
        return {}
    index = pd.DatetimeIndex(view.metrics.index)
    shape = (len(index), len(view.services))
    front = view.services.index(view.front_end)
    scheduled = requests["scheduled"].dt.as_unit("ns")
    sent = requests["sent"].dt.as_unit("ns").fillna(scheduled)
    lag = sent - scheduled  # of the client itself, which reads as late as it writes: no link's fault
    took = (requests["last_token"] - sent - lag).dt.total_seconds().to_numpy()
    ended = requests["last_token"].fillna(requests["scheduled"]).dt.as_unit("ns").astype("int64").to_numpy()
    row = row_of(index, ended, view.step_ns)
    column = np.full(len(row), front)
    failed, begun = requests["error"].notna().to_numpy(), requests["first_token"].notna().to_numpy()
    longest = float(np.max(took[np.isfinite(took)], initial=0.0)) / (view.step_s or 1.0)
    if inside is None:
        known = np.isfinite(took)
        gap = quantile_per_cell(row[known], column[known], took[known], shape, 0.5)
        cut = _cut(view, row[failed & begun], np.zeros(len(index)), longest)
        return {"client_gap": gap - metric_tables(view)["latency"], "cut": _only(front, cut, shape)}
    within = inside.reindex(requests["trace_id"]).to_numpy()
    known = np.isfinite(took) & np.isfinite(within)
    gap = _means(row[known], column[known], (took - within)[known], shape)
    unseen = failed & ~np.isfinite(within)
    begun = begun | requests["trace_id"].isin(_passed_on(view)).to_numpy()
    refused = _means(row, column, (unseen & ~begun).astype(float), shape)
    cut = _cut(view, row[unseen & begun], refused[:, front], longest)
    return {"client_gap": gap, "refused": refused, "cut": _only(front, cut, shape)}


def _only(service: int, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a table of (rows,) ``values`` of one service; NaN for the others."""
    table = np.full(shape, np.nan)
    table[:, service] = values
    return table


def _passed_on(view: CaseView) -> pd.Series:
    """Return the traces that a service behind the front end saw."""
    return view.spans["trace_id"][(view.spans["service"] != view.front_end).to_numpy()]


def _cut(view: CaseView, broken: np.ndarray, refused: np.ndarray, longest: float) -> np.ndarray:
    """Return (rows,) 1 where the front end went away and broke off requests that it had accepted and never finished.

    ``broken``: the rows in which those began, at most ``longest`` rows before. It is away where it refuses requests, or
    where its metrics or processes are missing.
    """
    tables = metric_tables(view)
    front = view.services.index(view.front_end)
    counted = [tables[name][:, front] for name in ("processes", "ready", "memory", "working_set") if name in tables]
    away = np.nan_to_num(refused) > 0
    for values in counted[:1]:
        away |= ~(values > 0)
    began = away & ~np.concatenate([[False], away[:-1]])
    cut = np.zeros(len(away))
    for at in np.flatnonzero(began).tolist():
        cut[at] = float(np.any((broken <= at + 1) & (broken >= at - 1 - longest)))
    return cut


def _engine_spans(view: CaseView) -> dict[str, np.ndarray]:
    """Return time per token and tokens per second from the attributes of the engine's spans; empty without any."""
    spans = view.spans
    text = spans["attributes"].to_numpy()
    chosen = [i for i, each in enumerate(text) if isinstance(each, str) and "gen_ai.usage.completion_tokens" in each]
    if not chosen:
        return {}
    decode, generated, prompt = (np.full(len(chosen), np.nan) for _ in range(3))
    for k, i in enumerate(chosen):
        try:
            said = json.loads(text[i])
        except ValueError:
            continue
        decode[k] = _number(said.get("gen_ai.latency.time_in_model_decode"))
        generated[k] = _number(said.get("gen_ai.usage.completion_tokens"))
        prompt[k] = _number(said.get("gen_ai.usage.prompt_tokens"))
    rows = spans.iloc[chosen]
    index = pd.DatetimeIndex(view.metrics.index)
    starts = rows["start"].dt.as_unit("ns").astype("int64").to_numpy()
    ends = starts + np.rint(np.nan_to_num(rows["duration"].to_numpy(dtype=float)) * 1e9).astype(np.int64)
    row = row_of(index, ends, view.step_ns)
    owner = pd.Index(view.services).get_indexer(pd.Index(rows["service"].astype(str)))
    shape = (len(index), len(view.services))
    with np.errstate(all="ignore"):
        per_token = np.where(generated > 1, decode / (generated - 1), np.nan)
    usable = np.isfinite(per_token)
    columns = {"step": _means(row[usable], owner[usable], per_token[usable], shape)}
    step_s = view.step_s or 1.0
    for name, counted in (("tokens", generated), ("prompt_tokens", prompt)):
        known = np.isfinite(counted)
        columns[name] = _sums(row[known], owner[known], counted[known], shape) / step_s
    return columns


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _derived(view: CaseView, columns: Mapping[str, np.ndarray], before: np.ndarray) -> dict[str, np.ndarray]:
    derived: dict[str, np.ndarray] = {}
    smooth = max(1, round(SMOOTH_S / (view.step_s or 1.0)))
    for name, load in (
        ("cpu", _work(columns, before, smooth)),
        ("step", _beside(columns, before, smooth, view.step_s or 1.0)),
    ):
        if name in columns and load is not None:
            derived[f"{name}_beyond_load"] = columns[name] / np.fmax(load, 1.0)
    normal = {name: _median(columns[name][before]) for name in ("cpu", "transmit") if name in columns}
    for name, of, share in (("stopped", "cpu", STOPPED_SHARE), ("mute", "transmit", MUTE_SHARE)):
        if of in normal:
            used = columns[of]
            derived[name] = np.where(np.isnan(used) | ~(normal[of] > 0), np.nan, used <= share * normal[of])
    if "scraped" in columns:
        derived["unheard"] = 1.0 - columns["scraped"]
    # tokens tell of the engine while its exporter answers; completed calls tell when it does not
    done = [_relative(columns[name], before, smooth) for name in ("tokens", "completed") if name in columns]
    if done:
        relative = np.where(np.isnan(done[0]), done[-1], done[0])
        relative = np.where(_heard(columns, smooth), relative, np.nan)
        derived["done"] = relative
        asked = _asked(columns, relative.shape)
        derived["asked"] = asked
        derived["silent"] = np.where(np.isnan(relative), np.nan, (relative <= SILENT_SHARE) & (asked != 0))
    if "gpu_clock" in columns:
        derived["gpu_clock_busy"] = np.where(_busy(columns), columns["gpu_clock"], np.nan)
    level = [columns[name] for name in ("memory", "working_set") if name in columns][:1]
    gone = []
    counted = [columns[name] for name in ("processes", "ready") if name in columns]
    for table, offset in [*((each, 1e5) for each in level), *((each, 0.5) for each in counted)]:
        usual = _median(table[before])
        with np.errstate(all="ignore"):
            gone.append(np.log((usual + offset) / (table + offset)))
    if gone:
        derived["vanished"] = np.fmax.reduce(gone)
    if "utilization" in columns and "cpu" in columns and _of_cgroup(view):
        with np.errstate(all="ignore"):
            quota = columns["cpu"] / columns["utilization"]
        derived["quota"] = np.where(np.isfinite(quota) & (columns["utilization"] > 0.02), quota, np.nan)
    return derived


def _relative(table: np.ndarray, before: np.ndarray, smooth: int) -> np.ndarray:
    """Return a rate relative to its normal mean, smoothed."""
    usual = _mean(table[before])
    with np.errstate(all="ignore"):
        return np.where(usual > 0, _moving_mean(table, smooth) / usual, np.nan)


def _heard(columns: Mapping[str, np.ndarray], smooth: int) -> np.ndarray:
    """Return (rows, services) whether any metric of the inside of a service came in the last rows: of one of which
    nothing is heard nobody can say that it completes nothing."""
    inside = [np.isfinite(columns[name]) for of in EVIDENCE.values() for name in of if name in columns]
    return _moving_mean(np.logical_or.reduce(inside).astype(float), smooth) > 0 if inside else np.array(True)


def _asked(columns: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return (rows, services) whether requests are in a service: 1 yes, 0 no, NaN not known.

    A stalled engine counts no running or waiting requests, as an idle one does. That none is there is said by the door
    in front of it (``ongoing``) while no call begins.
    """
    work = [columns[name] for name in ("ongoing", "running", "waiting", "started") if name in columns]
    some = np.nan_to_num(np.fmax.reduce(work)) > 0 if work else np.zeros(shape, dtype=bool)
    none = np.isfinite(columns["ongoing"]) if "ongoing" in columns else np.zeros(shape, dtype=bool)
    return np.where(some, 1.0, np.where(none, 0.0, np.nan))


def _busy(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (rows, services) whether the accelerator worked, in this step and the one before: an idle clock is low,
    and takes about a second to rise."""
    known = [columns[name] > 0 for name in ("running", "tokens") if name in columns]
    if "gpu_active" in columns:
        known.append(columns["gpu_active"] > BUSY_SHARE)
    if not known:
        return np.ones(columns["gpu_clock"].shape, dtype=bool)
    busy = np.logical_or.reduce(known)
    return busy & np.vstack([busy[:1], busy[:-1]])


def _of_cgroup(view: CaseView) -> bool:
    return any(
        facts.source == "cgroup"
        for (_, name), facts in view.context.metrics.items()
        if name == vocabulary.ACCELERATOR_UTILIZATION.name
    )


def _work(columns: Mapping[str, np.ndarray], before: np.ndarray, smooth: int) -> np.ndarray | None:
    """Return how much work a service does, relative to its normal: the largest of requests, prompts and tokens."""
    names = ("request_rate", "started", "completed", "tokens", "prompt_tokens")
    parts = [_relative(columns[name], before, smooth) for name in names if name in columns]
    return np.fmax.reduce(parts) if parts else None


def _beside(columns: Mapping[str, np.ndarray], before: np.ndarray, smooth: int, step_s: float) -> np.ndarray | None:
    """Return one more than the requests that ran at a time, relative to normal: a step of a batch of two may take twice
    as long as one of a single request, not longer. By Little's law from the calls, else the engine's gauge."""
    if "busy" in columns:
        running = _moving_mean(columns["busy"], smooth) / step_s
    else:
        named = [name for name in ("running", "ongoing") if name in columns]
        if not named:
            return None
        running = _moving_mean(columns[named[0]], smooth)
    return (1.0 + running) / (1.0 + _mean(running[before]))


def _counts(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return _sums(row, column, np.ones(len(row)), shape)


def _sums(row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    inside = (row >= 0) & (column >= 0)
    cell = row[inside] * shape[1] + column[inside]
    return np.bincount(cell, weights=values[inside], minlength=shape[0] * shape[1]).reshape(shape)


def _means(row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    count = _counts(row, column, shape)
    with np.errstate(invalid="ignore"):
        return _sums(row, column, values, shape) / np.where(count > 0, count, np.nan)


def _moving_mean(table: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last ``width`` rows that have a sample; NaN where none has."""
    if width <= 1:
        return table
    known = ~np.isnan(table)
    total = np.cumsum(np.where(known, table, 0.0), axis=0)
    count = np.cumsum(known, axis=0)
    total[width:] = total[width:] - total[:-width].copy()
    count[width:] = count[width:] - count[:-width].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _mean(table: np.ndarray) -> np.ndarray:
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0)


def _median(table: np.ndarray) -> np.ndarray:
    ordered = np.sort(table, axis=0)
    count = np.count_nonzero(~np.isnan(table), axis=0)
    if not len(table):
        return np.full(table.shape[1], np.nan)
    take = lambda at: np.take_along_axis(ordered, at[None, :], axis=0)[0]  # noqa: E731
    return (take(np.maximum(count - 1, 0) // 2) + take(np.maximum(count, 1) // 2 * (count > 0))) / 2
