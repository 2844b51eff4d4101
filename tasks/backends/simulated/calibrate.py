"""Fits a calibration to recorded cases: what their healthy windows show replaces the constants of a base calibration.

Only baselines are used, so that a fault changes no constant. What the cases do not show keeps the base's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.backends.simulated.calibration import (
    HANDOVER_AT,
    Calibration,
    EngineModel,
    HostModel,
    ProxyModel,
    Residuals,
    StepLaw,
)
from tasks.case import Case
from tasks.errors import RCArenaError
from tasks.export.derived_metrics import number_attribute
from tasks.metrics import Metric

MIN_REQUESTS = 30
LLM, REPLICA, PROXY = "llm_request", "replica_handle_request", "proxy_http_request"
NOISY: tuple[Metric, ...] = (
    metrics.CPU_USAGE,
    metrics.CPU_THROTTLED,
    metrics.MEMORY_RSS,
    metrics.MEMORY_WORKING_SET,
    metrics.NETWORK_RECEIVE,
    metrics.NETWORK_TRANSMIT,
)
LARGEST = float(np.log(20))
"""Residuals are cut off here: a value next to zero has no logarithm worth keeping."""
FINE = 100
"""Parts of a rate window in which an engine counts as working or not."""
WINDOWS, LEAST_WINDOWS = 20, 8
"""So many windows of residuals are kept per role at most; all as long as the shortest of the longest few."""


class CalibrationError(RCArenaError):
    """The cases do not hold what a fit needs."""


@dataclass(frozen=True)
class Fit:
    """A fitted calibration and how well each law explains what was recorded (R², the share of the variance)."""

    calibration: Calibration
    r_squared: Mapping[str, float]
    requests: int


def calibrate(cases: Sequence[Case], base: Calibration, name: str) -> Fit:
    """Fit a calibration called ``name`` to the baselines of ``cases``, on top of ``base``.

    Raises:
        CalibrationError: the cases are simulated, or have too few requests with engine spans.
    """
    if any(case.record.stack.backend == "simulated" for case in cases):
        raise CalibrationError("a calibration is fitted to recorded cases; these are simulated")
    windows = [_Window(case) for case in cases if case.record.phase("baseline")]
    calls = pd.concat([window.calls() for window in windows], ignore_index=True) if windows else pd.DataFrame()
    if len(calls) < MIN_REQUESTS:
        raise CalibrationError(
            f"{len(calls)} requests with engine spans in the baselines; at least {MIN_REQUESTS} needed"
        )
    step, step_r2 = fit_step(calls, base.engine.step)
    hosts, host_r2 = {}, {}
    for role in ("gateway", "head", "replica"):
        known: HostModel = getattr(base, f"host_{role}")
        samples = pd.concat([window.work_and_metrics(role) for window in windows], ignore_index=True)
        hosts[f"host_{role}"], host_r2[role] = fit_host(samples, known)
    source = f"fitted to {len(calls)} requests in the baselines of {len(cases)} cases of {_campaigns(cases)}"
    fitted = base.model_copy(
        update={
            "name": name,
            "engine": _engine(calls, step, base.engine).model_copy(
                update={"report_s": _report_s(cases, base.engine.report_s)}
            ),
            "gateway": _proxy(calls["gateway_before"], calls["gateway_after"], base.gateway),
            "head": _proxy(calls["head_before"], calls["head_after"], base.head),
            **hosts,
            "sources": {
                **base.sources,
                "engine": f"{source}; R² of the step law {step_r2:.2f}; capacities and restart as in {base.name}",
                **dict.fromkeys(("gateway", "head"), f"{source}; restart as in {base.name}"),
                **{f"host_{role}": f"{source}; R² of the CPU {r2:.2f}" for role, r2 in host_r2.items()},
            },
        }
    )
    checked = Calibration.model_validate(fitted.model_dump())
    return Fit(checked, {"step": step_r2, **{f"cpu of the {role}": r2 for role, r2 in host_r2.items()}}, len(calls))


def _campaigns(cases: Sequence[Case]) -> str:
    return " and ".join(sorted({case.record.campaign for case in cases}))


def fit_step(calls: pd.DataFrame, base: StepLaw) -> tuple[StepLaw, float]:
    """Fit the step law by least squares with coefficients of 0 or more.

    ``calls`` has a row per request: ``step_s`` (mean time per token), ``batch``, ``kv_tokens`` (means while it
    decoded), ``prefill_s``, ``prompt_tokens``, ``service``, ``end_s``. Source of nonnegative least squares: Lawson and
    Hanson, "Solving Least Squares Problems", 1974.
    """
    decode = calls[calls["step_s"] > 0]
    design = np.column_stack([np.ones(len(decode)), decode["batch"], decode["kv_tokens"]])
    (fixed, per_sequence, per_kv), r2 = _nonnegative(design, decode["step_s"].to_numpy())
    per_prefill = _slope(calls["prompt_tokens"].to_numpy(dtype=float), calls["prefill_s"].to_numpy(dtype=float))
    expected = design @ np.array([fixed, per_sequence, per_kv])
    residual = np.log(decode["step_s"].to_numpy() / np.maximum(expected, 1e-9))
    sigma = float(np.std(residual))
    tau_s = _correlation_time(decode.assign(residual=residual), base.tau_s)
    mean_shift = float(np.exp(np.mean(residual)))
    shared = _shared(decode.assign(residual=residual))
    law = base.model_copy(
        update={
            "fixed_s": float(fixed) * mean_shift,
            "per_sequence_s": float(per_sequence) * mean_shift,
            "per_kv_token_s": float(per_kv) * mean_shift,
            "per_prefill_token_s": max(per_prefill, 0.0),
            "sigma": sigma,
            "tau_s": tau_s,
            "shared": base.shared if shared is None else shared,
        }
    )
    return law, r2


def fit_host(samples: pd.DataFrame, base: HostModel) -> tuple[HostModel, float]:
    """Fit host metrics of one role to the work, and return R² of the CPU.

    ``samples`` has a row per service and time with ``requests``, ``tokens``, ``work`` (seconds with a sequence in work)
    per second, and the host metrics; with ``window`` (a name per case and service) and ``step_s``, in order of time,
    the residuals are kept, too."""
    found: dict[str, Any] = {}
    expected: dict[str, np.ndarray] = {}
    r2 = float("nan")
    noise = dict(base.noise)
    laws = {
        metrics.CPU_USAGE.name: (
            "cpu_idle",
            {"cpu_per_work_s": "work", "cpu_per_request": "requests", "cpu_per_token": "tokens"},
        ),
        metrics.NETWORK_RECEIVE.name: (
            "receive_idle",
            {"receive_per_request": "requests", "receive_per_token": "tokens"},
        ),
        metrics.NETWORK_TRANSMIT.name: (
            "transmit_idle",
            {"transmit_per_request": "requests", "transmit_per_token": "tokens"},
        ),
    }
    for metric, (idle, parts) in laws.items():
        if metric not in samples:
            continue
        rows = samples[[metric, *parts.values()]].dropna()
        if len(rows) < MIN_REQUESTS:
            continue
        design = np.column_stack([np.ones(len(rows)), *(rows[column] for column in parts.values())])
        coefficients, explained = _nonnegative(design, rows[metric].to_numpy())
        found |= dict(zip((idle, *parts), map(float, coefficients), strict=True))
        expected[metric] = coefficients[0] + samples[list(parts.values())].to_numpy() @ coefficients[1:]
        noise[metric] = _log_spread(rows[metric].to_numpy(), design @ coefficients)
        r2 = explained if metric == metrics.CPU_USAGE.name else r2
    if metrics.MEMORY_RSS.name in samples:
        memory = samples[metrics.MEMORY_RSS.name].dropna()
        if len(memory):
            found["memory_bytes"] = float(memory.median())
            noise[metrics.MEMORY_RSS.name] = _log_spread(memory.to_numpy(), np.full(len(memory), memory.median()))
    if metrics.PROCESSES.name in samples and samples[metrics.PROCESSES.name].notna().any():
        found["processes"] = max(1, round(float(samples[metrics.PROCESSES.name].median())))
    throttled, work = samples.get(metrics.CPU_THROTTLED.name), samples["work"]
    if throttled is not None and work.sum() > 0 and throttled.notna().any():
        usual = float(throttled.median()) > 0
        found["throttled_per_work_s"] = float(throttled.sum() / work[throttled.notna()].sum()) if usual else 0.0
        expected[metrics.CPU_THROTTLED.name] = found["throttled_per_work_s"] * work.to_numpy()
    if metrics.MEMORY_WORKING_SET.name in samples and "memory_bytes" in found:
        ratio = (samples[metrics.MEMORY_WORKING_SET.name] / samples[metrics.MEMORY_RSS.name]).median()
        found["working_set_factor"] = float(ratio)
    found["residuals"] = _residuals(samples, expected) if "window" in samples else base.residuals
    return base.model_copy(update={**found, "noise": {name: round(value, 4) for name, value in noise.items()}}), r2


def _residuals(samples: pd.DataFrame, expected: Mapping[str, np.ndarray]) -> Residuals | None:
    """Return what the work does not explain, in windows of cases spread evenly over all that are long enough."""
    names = tuple(metric.name for metric in NOISY if metric.name in samples)
    memory = (metrics.MEMORY_RSS.name, metrics.MEMORY_WORKING_SET.name)
    columns = []
    for name in names:
        values = samples[name].to_numpy(dtype=float)
        level = samples.groupby("window")[name].transform("median").to_numpy() if name in memory else 0.0
        law = expected.get(name, np.zeros(len(values)) + level)
        known = (values > 0) & (law > 0)
        logs = np.log(np.where(known, values, 1.0) / np.where(known, law, 1.0))
        columns.append(np.where(np.isnan(values), np.nan, np.clip(logs, -LARGEST, LARGEST)))
    table = np.column_stack(columns) if columns else np.zeros((len(samples), 0))
    windows = [table[own] for _, own in sorted(samples.groupby("window").indices.items())]
    windows = [own for own in windows if len(own) > 1 and np.isfinite(own).all()]
    if not windows or not names:
        return None
    length = sorted(map(len, windows), reverse=True)[:LEAST_WINDOWS][-1]
    windows = [own[:length] for own in windows if len(own) >= length]
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).round().astype(int))
    return Residuals.of(names, float(samples["step_s"].iloc[0]), np.stack([windows[i] for i in chosen]))


def _shared(decode: pd.DataFrame) -> float | None:
    """Return the correlation of the residuals of requests of different replicas that ended within half a second of each
    other: the part of the noise that they have in common. None: too few."""
    pairs = []
    for _, own in decode.groupby("case"):
        own = own.sort_values("end_s")
        end, service, residual = (own[name].to_numpy() for name in ("end_s", "service", "residual"))
        residual = residual - residual.mean()
        near = (np.diff(end) < 0.5) & (service[1:] != service[:-1])
        pairs.append(np.column_stack([residual[1:][near], residual[:-1][near]]))
    both = np.concatenate(pairs) if pairs else np.empty((0, 2))
    if len(both) < MIN_REQUESTS:
        return None
    return float(np.clip(np.corrcoef(both.T)[0, 1], 0, 1))


def _report_s(cases: Sequence[Case], otherwise: float) -> float:
    """Return how often engines hand their metrics on: from how many successive samples of the running requests are the
    same although requests came and went, as the median lag-one correlation c of a gauge that is renewed every
    step / (1 - c)."""
    found, step_s = [], 1.0
    for case in cases:
        phase = case.record.phase("baseline")
        if phase is None or case.record.sampling.step_s is None:
            continue
        step_s = case.record.sampling.step_s
        rows = case.metrics
        inside = (rows["time"] >= pd.Timestamp(phase.start)) & (rows["time"] < pd.Timestamp(phase.end))
        rows = rows[inside & (rows["metric"] == metrics.REQUESTS_RUNNING.name)]
        for _, own in rows.groupby("service", observed=True)["value"]:
            values = own.to_numpy(dtype=float)
            if len(values) > 5 and min(np.ptp(values[1:]), np.ptp(values[:-1])) > 0:
                found.append(float(np.corrcoef(values[1:], values[:-1])[0, 1]))
    if len(found) < 5:
        return otherwise
    return round(step_s / (1 - min(max(float(np.median(found)), 0.0), 0.9)), 2)


def _nonnegative(design: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the least-squares coefficients of 0 or more, and R²."""
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    coefficients = nnls(design / scale, values)[0] / scale
    spread = float(((values - values.mean()) ** 2).sum())
    left = float(((values - design @ coefficients) ** 2).sum())
    return coefficients, 1 - left / spread if spread > 0 else 0.0


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Return the slope by Theil and Sen: a few slow requests do not bend it."""
    from scipy.stats import theilslopes

    known = np.isfinite(x) & np.isfinite(y)
    if np.count_nonzero(known) < MIN_REQUESTS or np.ptp(x[known]) == 0:
        return 0.0
    chosen = np.flatnonzero(known)[:: max(1, np.count_nonzero(known) // 1000)]
    return float(theilslopes(y[chosen], x[chosen]).slope)


def _log_spread(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the standard deviation of log(value / expected), estimated by the median absolute deviation."""
    known = (values > 0) & (expected > 0)
    if not known.any():
        return 0.0
    residual = np.log(values[known] / expected[known])
    return float(1.4826 * np.median(np.abs(residual - np.median(residual))))


def _correlation_time(decode: pd.DataFrame, otherwise: float) -> float:
    """Return the correlation time of the residuals of one replica's successive requests."""
    products, squares, gaps = [], [], []
    for _, own in decode.sort_values("end_s").groupby(["case", "service"]):
        residual = own["residual"].to_numpy() - own["residual"].mean()
        products.append(residual[1:] * residual[:-1])
        squares.append(residual[:-1] ** 2)
        gaps.append(np.diff(own["end_s"].to_numpy()))
    total = float(np.concatenate(squares).sum()) if squares else 0.0
    if total <= 0:
        return otherwise
    correlation = float(np.concatenate(products).sum()) / total
    gap_s = float(np.median(np.concatenate(gaps)))
    return otherwise if correlation <= 0.01 or gap_s <= 0 else max(0.05, -gap_s / np.log(min(correlation, 0.99)))


def _engine(calls: pd.DataFrame, step: StepLaw, base: EngineModel) -> EngineModel:
    before, after = calls["engine_before"].dropna(), calls["engine_after"].dropna()
    spread = float(np.std(np.log(np.maximum(before, 1e-5)))) if len(before) else base.request_sigma
    return base.model_copy(
        update={
            "step": step,
            "before_s": float(before.median()) if len(before) else base.before_s,
            "after_s": max(0.0, float(after.median())) if len(after) else base.after_s,
            "request_sigma": spread,
            **_handover(calls, base),
        }
    )


def _handover(calls: pd.DataFrame, base: EngineModel) -> dict[str, Any]:
    """Return the time between an engine's front end and its core: of the time to first token what neither the queue nor
    the prefill explains."""
    handover = (calls["ttft_s"] - calls["queue_s"] - calls["prefill_s"]).dropna()
    handover = handover[handover > 0]
    if len(handover) < MIN_REQUESTS:
        return {}
    return {
        "handover_s": float(handover.median()),
        "handover_sigma": float(np.std(np.log(handover))),
        "handover_quantiles": tuple(
            float(round(each, 3)) for each in handover.quantile(HANDOVER_AT) / handover.median()
        ),
        "queue_s": float(calls["queue_s"].median()),
    }


def _proxy(before: pd.Series, after: pd.Series, base: ProxyModel) -> ProxyModel:
    before, after = before.dropna(), after.dropna()
    if len(before) < MIN_REQUESTS:
        return base
    update = {"before_s": max(0.0, float(before.median())), "after_s": max(0.0, float(after.median()))}
    positive = before[before > 0]
    return base.model_copy(update=update | {"sigma": float(np.std(np.log(positive))) if len(positive) else base.sigma})


class _Window:
    """The healthy part of one case: its baseline, or all of a case without an injection."""

    def __init__(self, case: Case) -> None:
        phase = case.record.phase("baseline")
        assert phase is not None
        self._case, self._start, self._end = case, pd.Timestamp(phase.start), pd.Timestamp(phase.end)
        self._healthy_until = self._end if case.record.injections else pd.Timestamp(case.record.phases[-1].end)

    def calls(self) -> pd.DataFrame:
        """Return a row per request that ended in the baseline, with the times between its spans in seconds."""
        spans = self._case.spans
        end = spans["start"] + pd.to_timedelta(spans["duration"], unit="s")
        spans = spans.assign(end=end)[(end >= self._start) & (end < self._end)]
        engine = spans[spans["operation"] == LLM]
        if engine.empty:
            return pd.DataFrame()
        decode = number_attribute(engine, "gen_ai.latency.time_in_model_decode")
        tokens = number_attribute(engine, "gen_ai.usage.completion_tokens")
        table = pd.DataFrame(
            {
                "case": self._case.record.case_id,
                "trace_id": engine["trace_id"].to_numpy(),
                "service": engine["service"].astype(str).to_numpy(),
                "start": engine["start"].to_numpy(),
                "end": engine["end"].to_numpy(),
                "end_s": (engine["end"] - self._start).dt.total_seconds().to_numpy(),
                "decode_s": decode,
                "step_s": np.divide(decode, tokens - 1, out=np.zeros_like(decode), where=tokens > 1),
                "prefill_s": number_attribute(engine, "gen_ai.latency.time_in_model_prefill"),
                "ttft_s": number_attribute(engine, "gen_ai.latency.time_to_first_token"),
                "queue_s": number_attribute(engine, "gen_ai.latency.time_in_queue"),
                "prompt_tokens": number_attribute(engine, "gen_ai.usage.prompt_tokens"),
                "tokens": tokens,
            }
        )
        table["batch"], table["kv_tokens"] = _beside(table)
        return self._with_ways(table, spans)

    def _with_ways(self, table: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
        for name, which in (
            ("replica", spans["operation"].str.startswith(REPLICA)),
            ("head", spans["operation"].str.startswith(PROXY)),
            ("gateway", spans["service"] == self._case.record.front_end),
        ):
            own = spans[which].drop_duplicates("trace_id").set_index("trace_id")[["start", "end"]]
            table = table.join(own.add_prefix(f"{name}_"), on="trace_id")

        def seconds(later: str, earlier: str) -> pd.Series:
            return (table[later] - table[earlier]).dt.total_seconds()

        return table.assign(
            engine_before=seconds("start", "replica_start"),
            engine_after=seconds("replica_end", "end"),
            head_before=seconds("replica_start", "head_start"),
            head_after=seconds("head_end", "replica_end"),
            gateway_before=seconds("head_start", "gateway_start"),
            gateway_after=seconds("gateway_end", "head_end"),
        )

    def work_and_metrics(self, role: str) -> pd.DataFrame:
        """Return a row per service of the role and time: work per second and host metrics in the window of a rate. Work
        is that of the spans, which have all requests at their own times."""
        record = self._case.record
        window_s = record.sampling.rate_window_s or 5.0
        services = [service.name for service in record.stack.services if service.role == role]
        samples = self._case.metrics
        first = self._start + pd.Timedelta(seconds=window_s)
        inside = (samples["time"] >= first) & (samples["time"] < self._healthy_until)
        inside &= samples["service"].isin(services)
        wide = samples[inside].pivot_table(
            index=["service", "time"], columns="metric", values="value", observed=True, aggfunc="mean"
        )
        if wide.empty:
            return pd.DataFrame(columns=["requests", "tokens", "work"])
        frame = wide[[metric.name for metric in (*NOISY, metrics.PROCESSES) if metric.name in wide]].copy()
        for service, own in wide.groupby(level="service", observed=True):
            at = pd.DatetimeIndex(own.index.get_level_values("time")).asi8 / 1e9
            for name, values in self._work_of(str(service), role, at, window_s).items():
                frame.loc[own.index, name] = values
        frame["window"] = [f"{record.case_id}/{service}" for service in frame.index.get_level_values("service")]
        return frame.assign(step_s=record.sampling.step_s or 1.0).reset_index(drop=True)

    def _work_of(self, service: str, role: str, at: np.ndarray, window_s: float) -> dict[str, np.ndarray]:
        """Return what a service did per second in the windows before ``at`` (s since the epoch)."""
        start, end, tokens = self._engine_spans(service if role == "replica" else None)
        inside = (end[None, :] > at[:, None] - window_s) & (end[None, :] <= at[:, None])
        overlap = np.minimum(end[None, :], at[:, None]) - np.maximum(start[None, :], at[:, None] - window_s)
        share = np.clip(overlap, 0, None)
        idle = np.ones((len(at), FINE), dtype=bool)
        ticks = at[:, None] - window_s + (np.arange(FINE) + 0.5) * window_s / FINE
        for a, b in zip(start, end, strict=True):
            idle &= ~((ticks >= a) & (ticks < b))
        return {
            "requests": inside.sum(axis=1) / window_s,
            "tokens": (share / np.maximum(end - start, 1e-9)) @ tokens / window_s,
            "work": 1 - idle.mean(axis=1),
        }

    def _engine_spans(self, service: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans = self._case.spans
        spans = spans[spans["operation"] == LLM]
        if service is not None:
            spans = spans[spans["service"] == service]
        start = spans["start"].astype("datetime64[ns, UTC]").astype("int64").to_numpy() / 1e9
        tokens = np.nan_to_num(number_attribute(spans, "gen_ai.usage.completion_tokens"))
        return start, start + spans["duration"].to_numpy(dtype=float), tokens


def _beside(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return for each request the mean number of sequences, and of their tokens, while it decoded, itself included."""
    batch, kv = np.ones(len(table)), np.zeros(len(table))
    start = table["start"].astype("int64").to_numpy() / 1e9
    end = table["end"].astype("int64").to_numpy() / 1e9
    size = (table["prompt_tokens"] + table["tokens"] / 2).to_numpy(dtype=float)
    for _, positions in table.reset_index(drop=True).groupby("service").indices.items():
        a, b = start[positions], end[positions]
        overlap = np.clip(np.minimum(b[:, None], b) - np.maximum(a[:, None], a), 0, None)
        share = overlap / np.maximum(b - a, 1e-9)[:, None]
        batch[positions] = share.sum(axis=1)
        kv[positions] = share @ np.nan_to_num(size[positions])
    return batch, kv
