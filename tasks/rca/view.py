"""What a method may see of a case: its telemetry, without the answer.

A view holds no ground truth, no case id and no path, and its services and columns come in an order that depends on
their content only. So a method cannot profit from a name, from the order of a file or from the position of a column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.case import Case
from tasks.params import ParamsError, Role, ScoreParams
from tasks.rca.profile import is_visible

SLI_QUANTILE = 0.9
_SLI_METRICS = ("latency_p90", "latency_p50")


@dataclass(frozen=True)
class CaseView:
    """Telemetry of one case, cut to the visible window.

    ``services``: the candidates, in an order that carries no information. ``front_end``: the service whose latency
    users see. ``metrics``: one row per sampling step (UTC), one column per (service, metric); NaN: no sample. ``sli``:
    latency in seconds that users saw, on the rows of ``metrics``. ``logs``, ``spans``, ``requests``, ``topology``: the
    tables of the case contract. ``inject_time``: when the first fault began, known or estimated.
    """

    services: tuple[str, ...]
    roles: Mapping[str, Role]
    front_end: str
    inject_time: pd.Timestamp
    metrics: pd.DataFrame
    sli: pd.Series
    logs: pd.DataFrame
    spans: pd.DataFrame
    requests: pd.DataFrame
    topology: pd.DataFrame
    content_key: str

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Metrics before ``inject_time`` (normal) and from it on (abnormal). Either may have no row."""
        after = self.metrics.index >= self.inject_time
        return self.metrics.loc[~after], self.metrics.loc[after]

    def missing(self, signals: frozenset[str]) -> list[str]:
        """Those of ``signals`` (fields of the view) that hold no sample."""
        return sorted(name for name in signals if not _has_samples(getattr(self, name)))


def _has_samples(signal: pd.DataFrame | pd.Series) -> bool:
    return bool(signal.notna().any()) if isinstance(signal, pd.Series) else not signal.empty


def check_inject_time(params: ScoreParams) -> list[str]:
    """Problems of ``score.inject_time``, one line each."""
    if params.inject_time == "detected":
        return ["score.inject_time: 'detected' is not available yet; allowed: known"]
    return []


def build_view(case: Case, params: ScoreParams) -> CaseView:
    """The view of ``case`` under the profile and windows of ``params``.

    Visible is [inject time - ``baseline_s``, inject time + ``fault_s``), each side unbounded if not set. Everything
    from the inject time on is the abnormal window, the recovery phase included (as in arXiv 2603.02057): a person who
    is called does not know when the fault will end. ``fault_s`` leaves the recovery out.

    Raises:
        ParamsError: ``params.inject_time`` asks for something not available.
    """
    problems = check_inject_time(params)
    if problems:
        raise ParamsError(problems)
    record = case.record
    inject_time = pd.Timestamp(record.injection_time).tz_convert("UTC").as_unit("ns")
    window = _Window(
        inject_time - pd.Timedelta(seconds=params.baseline_s) if params.baseline_s else None,
        inject_time + pd.Timedelta(seconds=params.fault_s) if params.fault_s else None,
    )
    samples = window.cut(case.metrics, "time")
    visible_names = [name for name in samples["metric"].unique() if is_visible(name, params.profile)]
    wide = widen(samples[samples["metric"].isin(visible_names)], inject_time)
    logs = window.cut(case.logs, "time")
    spans = window.cut(case.spans, "start")
    requests = window.cut(case.requests, "scheduled").drop(columns="request_id")

    roles = {service.name: service.role for service in record.stack.services}
    digests = _service_digests(roles, record.front_end, wide, logs, spans)
    services = tuple(sorted(roles, key=lambda service: (digests[service], service)))
    position = {service: i for i, service in enumerate(services)}
    columns = sorted(column_names(wide), key=lambda column: (position[column[0]], column[1]))
    wide = wide[columns]
    return CaseView(
        services=services,
        roles={service: roles[service] for service in services},
        front_end=record.front_end,
        inject_time=inject_time,
        metrics=wide,
        sli=front_end_latency(requests, wide, record.front_end),
        logs=_ordered(logs, services, ["time", "service", "message"]),
        spans=_ordered(spans, services, ["start", "service", "duration", "trace_id", "span_id"]),
        requests=_ordered(requests, services, ["scheduled", "last_token", "trace_id"]),
        topology=_ordered(case.topology, services, ["relation", "source", "target"]),
        content_key=hashlib.sha256("".join(sorted(digests.values())).encode()).hexdigest(),
    )


def _ordered(table: pd.DataFrame, services: tuple[str, ...], by: list[str]) -> pd.DataFrame:
    """The rows in an order that does not depend on the file, nor on what the services are called."""
    dtypes = {}
    for column in table:
        if isinstance(table[column].dtype, pd.CategoricalDtype):
            known = services if column in ("service", "source", "target") else ()
            others = sorted(set(table[column].dropna().astype(str)) - set(known))
            dtypes[column] = pd.CategoricalDtype([*known, *others], ordered=True)
    return table.astype(dtypes).sort_values(by, ignore_index=True)


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


def column_names(metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """(service, metric) of each column."""
    services, names = metrics.columns.get_level_values(0), metrics.columns.get_level_values(1)
    return list(zip(services.astype(str), names.astype(str), strict=True))


def widen(samples: pd.DataFrame, inject_time: pd.Timestamp) -> pd.DataFrame:
    """Long metrics (``time``, ``service``, ``metric``, ``value``) as one row per step, a column per (service, metric).

    Samples of one column that fall into one step are averaged. Times that do not lie on a common grid are put on one
    that has a boundary at ``inject_time``, so that no row mixes before and after. Infinite values count as no sample;
    columns and rows without any sample are left out.
    """
    samples = samples[np.isfinite(samples["value"])]
    if samples.empty:
        columns = pd.MultiIndex.from_arrays([[], []], names=["service", "metric"])
        return pd.DataFrame(
            index=pd.DatetimeIndex([], tz="UTC", name="time").as_unit("ns"), columns=columns, dtype=float
        )
    keys = ["service", "metric"]
    samples = samples.assign(time=_on_grid(samples, inject_time), **{key: samples[key].astype(str) for key in keys})
    return samples.groupby(["time", *keys])["value"].mean().unstack(keys)


def _on_grid(samples: pd.DataFrame, inject_time: pd.Timestamp) -> pd.Series:
    ordered = samples.sort_values(["service", "metric", "time"])
    same_series = (ordered[["service", "metric"]] == ordered[["service", "metric"]].shift()).all(axis=1)
    gaps = ordered["time"].diff()[same_series]
    gaps = gaps[gaps > pd.Timedelta(0)]
    time = samples["time"]
    if gaps.empty:
        return time
    step = gaps.median()
    if ((time - time.min()) % step == pd.Timedelta(0)).all():
        return time
    return inject_time + (time - inject_time) // step * step


def front_end_latency(requests: pd.DataFrame, metrics: pd.DataFrame, front_end: str) -> pd.Series:
    """90th percentile of the latency (scheduled to last token, seconds) of the requests that completed in each step.

    A request counts in the step in which it completed, so one that the fault slowed down never counts before the fault.
    Without completed requests it is the front end's own latency metric; without that, no sample.
    """
    done = requests[["scheduled", "last_token"]].dropna()
    index = metrics.index
    if done.empty:
        for metric in _SLI_METRICS:
            if (front_end, metric) in metrics.columns:
                return metrics[(front_end, metric)].rename("sli")
        return pd.Series(np.nan, index=index, name="sli")
    latency = (done["last_token"] - done["scheduled"]).dt.total_seconds()
    if index.empty:
        return (
            latency.groupby(done["last_token"].dt.ceil("1s")).quantile(SLI_QUANTILE).rename("sli").rename_axis("time")
        )
    step = pd.Series(index).diff().median() if len(index) > 1 else pd.Timedelta(seconds=1)
    row = index.searchsorted(done["last_token"], side="left")
    found = row < len(index)
    label = index[row[found]]
    recent = np.asarray(label - pd.DatetimeIndex(done["last_token"][found]) < step)
    per_step = latency[found][recent].groupby(label[recent]).quantile(SLI_QUANTILE)
    return per_step.reindex(index).rename("sli")


def _service_digests(
    roles: Mapping[str, Role],
    front_end: str,
    metrics: pd.DataFrame,
    logs: pd.DataFrame,
    spans: pd.DataFrame,
) -> dict[str, str]:
    """A digest of what was seen of each service: the same whatever the services are called and in whatever order."""
    times = pd.DatetimeIndex(metrics.index).asi8.tobytes()
    columns: dict[str, list[str]] = {service: [] for service in roles}
    values = metrics.to_numpy()
    for i, (service, metric) in enumerate(column_names(metrics)):
        columns[service].append(f"{metric} {_digest(_canonical(values[:, i]))}")
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
    content = dict.fromkeys(services, b"")
    numbers = {
        column: table[column].astype("int64") if table[column].dtype.kind == "M" else table[column]
        for column in columns
    }
    frame = pd.DataFrame({**numbers, "service": table["service"].astype(str)}).sort_values(list(columns))
    for service, rows in frame.groupby("service"):
        content[str(service)] = rows[list(columns)].to_numpy(dtype=float).tobytes()
    return content


def _canonical(values: np.ndarray) -> bytes:
    return np.where(np.isnan(values), np.nan, values + 0.0).tobytes()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
