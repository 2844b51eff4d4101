"""Builds the view of a case. It reads the whole case, the answer included, so no method ever runs in its process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tasks.case import Case
from tasks.metrics import is_visible
from tasks.rca.features.grid import on_grid
from tasks.rca.features.sli import Telemetry
from tasks.rca.run.build_context import build_context
from tasks.rca.view import CaseView, column_names
from tasks.requests import time_out_s
from tasks.stack import Role

if TYPE_CHECKING:
    from tasks.params import ScoreParams
    from tasks.rca.features.change_point import Detection


class NoChangeDetected(ValueError):  # noqa: N818 (nothing is wrong: a recording may hold no change)
    """The inject time is to be detected, and the recording shows no change: there is no view to build."""


def build_view(case: Case, params: ScoreParams, inject_time: pd.Timestamp | None = None) -> CaseView:
    """Build the view of ``case`` under the profile and windows of ``params``.

    Visible is [inject time - ``baseline_s``, inject time + ``fault_s``), each side unbounded if not set. Everything
    from the inject time on is the abnormal window, the recovery phase included (as in arXiv 2603.02057): a person on
    call does not know when the fault will end. ``fault_s`` leaves the recovery out.

    With ``params.inject_time`` ``detected`` the inject time is where :mod:`tasks.rca.features.change_point` sees the
    recording change, and nothing in the view depends on the true one; an ``inject_time`` that is given, by an alarm, is
    taken instead. ``params.inject_time_error_s`` makes any of them wrong by so much.

    Raises:
        NoChangeDetected: the inject time is to be detected and there is no change.
    """
    record = case.record
    counted = record.counted(include_ineffective=params.include_ineffective)
    roles = {service.name: service.role for service in record.stack.services}
    samples = _visible_metrics(case.metrics, params)
    if inject_time is None:
        inject_time = (
            _detected_inject_time(case, params)
            if params.inject_time == "detected"
            else pd.Timestamp(record.injection_time_of(counted)).tz_convert("UTC").as_unit("ns")
        )
    inject_time += pd.Timedelta(seconds=params.inject_time_error_s)
    window = _Window(
        inject_time - pd.Timedelta(seconds=params.baseline_s) if params.baseline_s else None,
        inject_time + pd.Timedelta(seconds=params.fault_s) if params.fault_s else None,
    )
    samples = window.cut(samples, "time")
    wide, step_ns = widen(samples, inject_time)
    logs = window.cut(case.logs, "time")
    spans = window.cut(case.spans, "start")
    requests = window.cut(case.requests, "scheduled").drop(columns="request_id")

    digests = _service_digests(roles, record.front_end, wide, logs, spans)
    services = tuple(sorted(roles, key=lambda service: (digests[service], service)))
    position = {service: i for i, service in enumerate(services)}
    names = column_names(wide)
    wide = wide.iloc[:, sorted(range(len(names)), key=lambda i: (position[names[i][0]], names[i][1]))]
    slis = Telemetry(
        requests=requests,
        spans=spans,
        metrics=wide,
        topology=case.topology,
        front_end=record.front_end,
        timeout_s=time_out_s(record.load.parameters),
        boundary=inject_time,
        step_ns=step_ns or None,
    ).slis()
    return CaseView(
        services=services,
        roles={service: roles[service] for service in services},
        front_end=record.front_end,
        inject_time=inject_time,
        metrics=wide,
        step_s=step_ns / 1e9 if step_ns else None,
        context=build_context(
            record,
            services,
            column_names(wide),
            samples,
            case.topology,
            {
                "metrics": (len(case.metrics), len(samples)),
                "requests": (len(case.requests), len(requests)),
                "logs": (len(case.logs), len(logs)),
                "spans": (len(case.spans), len(spans)),
                "topology": (len(case.topology), len(case.topology)),
            },
        ),
        sli=slis.latency.values,
        sli_source=slis.latency.source,
        ttft=slis.ttft.values,
        ttft_source=slis.ttft.source,
        error_rate=slis.error_rate.values,
        error_rate_source=slis.error_rate.source,
        logs=_ordered(logs, services, ["time", "service", "message"]),
        spans=_ordered(spans, services, ["start", "service", "duration", "trace_id", "span_id"]),
        requests=_ordered(requests, services, ["scheduled", "last_token", "trace_id"]),
        topology=_ordered(case.topology, services, ["relation", "source", "target"]),
        content_key=hashlib.sha256("".join(sorted(digests.values())).encode()).hexdigest(),
    )


def _visible_metrics(samples: pd.DataFrame, params: ScoreParams) -> pd.DataFrame:
    names = [name for name in samples["metric"].unique() if is_visible(name, params.profile)]
    return samples[samples["metric"].isin(names)]


def detect_changes(case: Case, params: ScoreParams) -> Detection:
    """Say when the recording changes, by the metrics that ``params.profile`` shows, on a grid that begins with it."""
    from tasks.rca.features.change_point import Detection, detect_change

    samples = _visible_metrics(case.metrics, params)
    if samples.empty and case.requests.empty and case.spans.empty:
        return Detection(None, 0.0)
    metrics, step_ns = widen(samples, samples["time"].min())
    seen = Telemetry(
        requests=case.requests,
        spans=case.spans,
        metrics=metrics,
        topology=case.topology,
        front_end=case.record.front_end,
        timeout_s=time_out_s(case.record.load.parameters),
        step_ns=step_ns or None,
    )
    return detect_change(metrics, seen.latency().values)


def _detected_inject_time(case: Case, params: ScoreParams) -> pd.Timestamp:
    detection = detect_changes(case, params)
    if detection.time is None:
        raise NoChangeDetected("no change was detected")
    return detection.time


def _ordered(table: pd.DataFrame, services: tuple[str, ...], by: list[str]) -> pd.DataFrame:
    """Return the rows in an order that depends neither on the file nor on the names of the services."""
    renumbered: dict[str, pd.Series] = {}
    for column in table.columns.astype(str):
        if isinstance(table[column].dtype, pd.CategoricalDtype):
            known = services if column in ("service", "source", "target") else ()
            others = set(table[column].cat.remove_unused_categories().cat.categories.astype(str)) - set(known)
            renumbered[column] = table[column].cat.set_categories([*known, *sorted(others)], ordered=True)
    return table.assign(**renumbered).sort_values(by, ignore_index=True)


@dataclass(frozen=True)
class _Window:
    start: pd.Timestamp | None
    end: pd.Timestamp | None

    def cut(self, table: pd.DataFrame, time: str) -> pd.DataFrame:
        keep = np.ones(len(table), dtype=bool)
        if self.start is not None:
            keep &= (table[time] >= self.start).to_numpy()
        if self.end is not None:
            keep &= (table[time] < self.end).to_numpy()
        return table[keep]


def widen(samples: pd.DataFrame, boundary: pd.Timestamp) -> tuple[pd.DataFrame, int]:
    """Turn long metrics (``time``, ``service``, ``metric``, ``value``) into one row per step and a column per (service,
    metric).

    Samples of one column that fall into one step are averaged. Times that do not lie on a common grid are put on one
    (:mod:`tasks.rca.features.grid`); no row mixes before and after ``boundary``. A hole in the recording has no rows.
    Infinite values count as no sample; columns and rows without any sample are left out.

    Returns:
        The wide metrics, and the usual step between samples of a column (ns; 0 if none has two).
    """
    samples = samples[np.isfinite(samples["value"])]
    if samples.empty:
        columns = pd.MultiIndex.from_arrays([[], []], names=["service", "metric"])
        index = pd.DatetimeIndex([], tz="UTC", name="time").as_unit("ns")
        return pd.DataFrame(index=index, columns=columns, dtype=float), 0
    service, services = _numbered(samples["service"])
    metric, metrics = _numbered(samples["metric"])
    present, column = np.unique(service * len(metrics) + metric, return_inverse=True)
    time = pd.DatetimeIndex(samples["time"]).as_unit("ns")
    placed, step_ns = on_grid(time.asi8, column, boundary.as_unit("ns").value)
    times, row = np.unique(placed, return_inverse=True)
    wide = pd.DataFrame(
        _cell_means(row, column, samples["value"].to_numpy(dtype=float), (len(times), len(present))),
        index=pd.DatetimeIndex(times, tz="UTC", name="time").as_unit("ns"),
        columns=pd.MultiIndex.from_arrays(
            [services[present // len(metrics)], metrics[present % len(metrics)]], names=["service", "metric"]
        ),
    )
    return wide, step_ns


def _numbered(names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each name among the distinct names, and the distinct names, sorted."""
    codes, found = pd.factorize(names)
    distinct = np.array([str(name) for name in found], dtype=object)
    order = np.argsort(distinct)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], distinct[order]


def _cell_means(row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the mean of the values of each cell, NaN for an empty one. The order of the values makes no difference."""
    cell = row * shape[1] + column
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    if count.max() > 1:
        order = np.lexsort((values, cell))
        cell, values = cell[order], values[order]
    total = np.bincount(cell, weights=values, minlength=len(count))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0).reshape(shape)


def _service_digests(
    roles: Mapping[str, Role],
    front_end: str,
    metrics: pd.DataFrame,
    logs: pd.DataFrame,
    spans: pd.DataFrame,
) -> dict[str, str]:
    """Return a digest of what was seen of each service, independent of the services' names and order."""
    times = pd.DatetimeIndex(metrics.index).asi8.tobytes()
    columns: dict[str, list[str]] = {service: [] for service in roles}
    values = np.ascontiguousarray(metrics.to_numpy().T)
    for i, (service, metric) in enumerate(column_names(metrics)):
        columns[service].append(f"{metric} {_digest(_canonical(values[i]))}")
    log_times = _by_service(logs, roles, ["time"])
    span_times = _by_service(spans, roles, ["start", "duration"])
    return {
        service: _digest(
            f"{role} {service == front_end}".encode(),
            times,
            "\n".join(sorted(columns[service])).encode(),
            log_times[service],
            span_times[service],
        )
        for service, role in roles.items()
    }


def _by_service(table: pd.DataFrame, services: Mapping[str, Role], columns: Sequence[str]) -> dict[str, bytes]:
    """Return the rows of each service as bytes, independent of the table's order."""
    service, names = _numbered(table["service"])
    times = {column: table[column].astype("int64") for column in columns if table[column].dtype.kind == "M"}
    values = [times.get(column, table[column]).to_numpy() for column in columns]
    order = np.lexsort((*values[::-1], service))
    rows = np.column_stack([column[order].astype(float) for column in values])
    bounds = np.searchsorted(service[order], np.arange(len(names) + 1))
    content = {str(name): rows[bounds[i] : bounds[i + 1]].tobytes() for i, name in enumerate(names)}
    return {name: content.get(name, b"") for name in services}


def _canonical(values: np.ndarray) -> bytes:
    return np.where(np.isnan(values), np.nan, values + 0.0).tobytes()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
