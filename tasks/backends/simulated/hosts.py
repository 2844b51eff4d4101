"""Host and GPU metrics of simulated services: what follows the work, what a fault adds, and noise around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from tasks import metrics
from tasks.backends.simulated.calibration import Calibration, GpuModel, HostModel, Residuals
from tasks.backends.simulated.faults import clock_within
from tasks.backends.simulated.world import Timeline, World
from tasks.metrics import Metric

Columns = dict[Metric, np.ndarray]
UNREACHABLE_HEARS = 0.15
"""The part of what comes to a service in any case that still does when nobody answers."""
MOMENTS = 5
"""A rate is the mean over so many moments of its window of what faults change."""


@dataclass(frozen=True)
class Work:
    """What services of one role did in the rate window before each time, per second: (times, services) each.
    ``most_ongoing``: the most requests that were in the service at a time until then."""

    requests: np.ndarray
    tokens: np.ndarray
    work: np.ndarray
    busy: np.ndarray
    kv_tokens: np.ndarray
    most_ongoing: np.ndarray


def host_columns(
    host: HostModel,
    calibration: Calibration,
    timeline: Timeline,
    services: slice,
    at_s: np.ndarray,
    window_s: float,
    work: Work,
    seed: Sequence[int],
) -> Columns:
    """Return the host metrics of services of one role, (times, services) each; rates over ``window_s``."""

    def of(name: str) -> np.ndarray:
        return timeline.matrix(name, at_s)[:, services]

    def mean_of(state: Callable[[World], np.ndarray]) -> np.ndarray:
        values = np.stack([state(world)[services].astype(float) for world in timeline.worlds])
        moments = [values[timeline.index(at_s - window_s * i / MOMENTS)] for i in range(MOMENTS)]
        return np.mean(moments, axis=0)

    noise = _Noise(host, work.requests.shape, at_s, seed)
    alive = ~of("down")
    moves = mean_of(lambda world: ~(world.down | world.frozen))
    stress = mean_of(lambda world: world.stress_cores * ~(world.down | world.frozen))
    quota = of("quota")
    cores = host.cores or np.inf
    own = host.cpu_idle + host.cpu_per_request * work.requests + host.cpu_per_token * work.tokens
    own = own + host.cpu_per_work_s * work.work
    wanted = own * noise.factor(metrics.CPU_USAGE) + stress
    used = np.minimum(wanted, cores * quota) * moves
    beyond = np.where(wanted > 0, np.clip(1 - cores * quota / np.maximum(wanted, 1e-9), 0, 1), 0)
    throttled = host.throttled_per_work_s * work.work * noise.factor(metrics.CPU_THROTTLED)
    throttled += calibration.response.throttled_threads * work.busy * (1 - quota)
    throttled += calibration.response.stress_throttled * np.where(stress > 0, beyond, 0)
    throttled += calibration.response.memory_throttled * of("filled") * np.minimum(own / cores, 1)
    fresh = np.where(timeline.restarted(at_s)[:, services], host.memory_fresh, 1.0)
    resident, working_set = (
        (
            size * fresh * noise.factor(metric)
            + host.memory_per_kv_token * work.kv_tokens
            + host.memory_per_ongoing * np.maximum(work.most_ongoing - host.memory_ongoing_free, 0)
            + of("extra_memory")
        )
        * np.where(alive, 1, 0.02)
        for metric, size in (
            (metrics.MEMORY_RSS, host.memory_bytes),
            (metrics.MEMORY_WORKING_SET, host.memory_bytes * host.working_set_factor),
        )
    )
    open_link = mean_of(lambda world: ~world.unreachable)
    cut = mean_of(lambda world: world.cut & ~(world.frozen | world.down))
    heard = UNREACHABLE_HEARS + (1 - UNREACHABLE_HEARS) * open_link
    heard += (calibration.response.cut_hears - UNREACHABLE_HEARS) * cut
    received = host.receive_idle + host.receive_per_request * work.requests + host.receive_per_token * work.tokens
    sent = host.transmit_idle + host.transmit_per_request * work.requests + host.transmit_per_token * work.tokens
    received *= noise.factor(metrics.NETWORK_RECEIVE) * heard
    sent = np.minimum(sent * noise.factor(metrics.NETWORK_TRANSMIT), of("rate")) * open_link
    zero = np.zeros_like(used)
    return {
        metrics.CPU_USAGE: used,
        metrics.MEMORY_WORKING_SET: working_set,
        metrics.NETWORK_RECEIVE: received,
        metrics.NETWORK_TRANSMIT: sent,
        metrics.CPU_THROTTLED: throttled * moves,
        metrics.MEMORY_RSS: resident,
        metrics.MEMORY_LIMIT_HITS: zero,
        metrics.PROCESSES: np.where(alive, host.processes + of("extra_processes"), 1.0),
        metrics.NETWORK_DROPPED: zero,
    }


def gpu_columns(
    gpu: GpuModel,
    timeline: Timeline,
    services: slice,
    at_s: np.ndarray,
    work: Work,
    running: np.ndarray,
    seed: Sequence[int],
) -> Columns:
    """Return the metrics of the replicas' GPUs, (times, replicas) each: means over the GPUs of a replica."""

    def of(name: str) -> np.ndarray:
        return timeline.matrix(name, at_s)[:, services]

    intruder = of("intruder")
    busy = np.clip(np.maximum(work.busy, 2 * intruder), 0, 1)
    limit = np.minimum(gpu.limit_w, of("power_cap"))
    within = np.vectorize(lambda watts: clock_within(gpu, watts))(np.unique(limit))
    capped = within[np.searchsorted(np.unique(limit), limit)]
    clock = np.minimum(np.minimum(gpu.max_clock, of("clock_cap")), capped)
    at_work = (running > 0) | (intruder > 0)
    shown = np.where(at_work, clock, gpu.idle_clock) * (
        1 + 0.004 * own_stream(seed, metrics.GPU_SM_CLOCK).standard_normal(busy.shape)
    )
    power = gpu.idle_w + busy * (gpu.busy_w - gpu.idle_w) * (clock / gpu.max_clock) ** gpu.power_exponent
    power *= 1 + 0.03 * own_stream(seed, metrics.GPU_POWER).standard_normal(busy.shape)
    power = np.minimum(power, limit * 1.02)
    step_s = float(np.median(np.diff(at_s))) if len(at_s) > 1 else 1.0
    temperature = np.empty_like(power)
    last = gpu.ambient_c + gpu.celsius_per_w * power[0]
    keep = np.exp(-step_s / gpu.temperature_tau_s)
    for i, row in enumerate(power):
        last = last * keep + (gpu.ambient_c + gpu.celsius_per_w * row) * (1 - keep)
        temperature[i] = np.round(last)
    binding = capped < np.minimum(gpu.max_clock, of("clock_cap"))
    violation = np.where(binding, busy * (1 - capped / gpu.max_clock), 0)
    alive = ~of("down")
    return {
        metrics.ACCELERATOR_UTILIZATION: busy,
        metrics.GPU_SM_CLOCK: shown,
        metrics.GPU_SM_ACTIVE: np.clip(busy * 0.8 + 0.2 * intruder, 0, 1),
        metrics.GPU_TEMPERATURE: temperature,
        metrics.GPU_POWER: power,
        metrics.GPU_POWER_LIMIT: limit,
        metrics.GPU_POWER_VIOLATION: violation,
        metrics.GPU_THERMAL_VIOLATION: np.zeros_like(busy),
        metrics.GPU_CLOCK_EVENTS: np.where(binding & at_work, 1.0, 0.0),
        metrics.GPU_MEMORY_USED: np.where(alive, gpu.memory_used_bytes, 0) + of("gpu_memory"),
        metrics.GPU_LAST_XID: np.zeros_like(busy),
    }


def own_stream(seed: Sequence[int], metric: Metric) -> np.random.Generator:
    """Return the random stream of one metric: a longer table of it begins with the shorter one."""
    return np.random.default_rng([*seed, crc32(metric.name.encode())])


class _Noise:
    """What the work does not explain of the metrics of services of one role.

    With recorded residuals each service has a recorded window of its own, which is played from a random moment on,
    forwards and backwards in turns: it stays as smooth as it was recorded and drifts as far, and all metrics at once
    stay as correlated. Without: independent autoregressive series of first order.
    """

    def __init__(self, host: HostModel, shape: tuple[int, ...], at_s: np.ndarray, seed: Sequence[int]) -> None:
        self._host, self._shape, self._seed = host, shape, seed
        self._step_s = float(np.median(np.diff(at_s))) if len(at_s) > 1 else 1.0
        if host.residuals is not None:
            self._at = np.round((at_s - at_s[0]) / host.residuals.step_s).astype(int)
            self._window, self._row = self._played(host.residuals)

    def factor(self, metric: Metric) -> np.ndarray:
        """Return value / expected, (times, services)."""
        residuals = self._host.residuals
        if residuals is not None and metric.name in residuals.metrics:
            table = residuals.table[:, :, residuals.metrics.index(metric.name)]
            return np.exp(table[self._window, self._row])
        sigma = self._host.noise.get(metric.name, 0.0)
        if metric is metrics.MEMORY_WORKING_SET:
            return self.factor(metrics.MEMORY_RSS)
        if not sigma:
            return np.ones(self._shape)
        from scipy.signal import lfilter

        keep = float(np.exp(-self._step_s / self._host.noise_tau_s))
        shocks = own_stream(self._seed, metric).standard_normal(self._shape)
        shocks[1:] *= np.sqrt(1 - keep**2)
        return np.exp(sigma * lfilter([1.0], [1.0, -keep], shocks, axis=0))

    def _played(self, residuals: Residuals) -> tuple[np.ndarray, np.ndarray]:
        """Return the window of each service, and the row of it at each time, (times, services)."""
        window, start, back = np.random.default_rng([*self._seed, 1]).random((3, self._shape[1]))
        turn = max(1, 2 * (residuals.length - 1))
        begin = np.floor(start * (residuals.length - 1)) + np.where(back < 0.5, residuals.length - 1, 0)
        rows = (begin.astype(int) + self._at[:, None]) % turn
        return (window * residuals.windows).astype(int), np.minimum(rows, turn - rows)
