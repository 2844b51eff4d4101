"""Host and GPU metrics of simulated services: what follows the work, what a fault adds, and noise around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from tasks import metrics
from tasks.backends.simulated.calibration import Calibration, GpuModel, HostModel
from tasks.backends.simulated.faults import clock_within
from tasks.backends.simulated.world import Timeline
from tasks.metrics import Metric

Columns = dict[Metric, np.ndarray]
RESIDENT_SHARE = 0.985
"""Resident memory of the working set."""


@dataclass(frozen=True)
class Work:
    """What services of one role did in the rate window before each time, per second: (times, services) each."""

    requests: np.ndarray
    tokens: np.ndarray
    work: np.ndarray
    busy: np.ndarray
    kv_tokens: np.ndarray


def host_columns(
    host: HostModel,
    calibration: Calibration,
    timeline: Timeline,
    services: slice,
    at_s: np.ndarray,
    work: Work,
    seed: Sequence[int],
) -> Columns:
    """Return the host metrics of services of one role, (times, services) each."""

    def of(name: str) -> np.ndarray:
        return timeline.matrix(name, at_s)[:, services]

    noise = _Noise(host, work.requests.shape, at_s, seed)
    alive = ~of("down")
    moves = alive & ~of("frozen")
    stress, quota = of("stress_cores") * moves, of("quota")
    cores = host.cores or np.inf
    own = host.cpu_idle + host.cpu_per_request * work.requests + host.cpu_per_token * work.tokens
    own = own + host.cpu_per_work_s * work.work
    wanted = own * noise.factor(metrics.CPU_USAGE) + stress
    used = np.minimum(wanted, cores * quota) * moves
    beyond = np.where(wanted > 0, np.clip(1 - cores * quota / np.maximum(wanted, 1e-9), 0, 1), 0)
    throttled = host.throttled_per_work_s * work.work * noise.factor(metrics.CPU_THROTTLED)
    throttled += calibration.response.throttled_threads * work.busy * (1 - quota)
    throttled += calibration.response.stress_throttled * stress * beyond
    memory = host.memory_bytes * noise.factor(metrics.MEMORY_RSS) + host.memory_per_kv_token * work.kv_tokens
    memory = (memory + of("extra_memory")) * np.where(alive, 1, 0.02)
    open_link = moves & ~of("cut")
    received = host.receive_idle + host.receive_per_request * work.requests + host.receive_per_token * work.tokens
    sent = host.transmit_idle + host.transmit_per_request * work.requests + host.transmit_per_token * work.tokens
    received *= noise.factor(metrics.NETWORK_RECEIVE) * np.where(open_link, 1, 0.15)
    sent = np.minimum(sent * noise.factor(metrics.NETWORK_TRANSMIT), of("rate")) * open_link
    zero = np.zeros_like(used)
    return {
        metrics.CPU_USAGE: used,
        metrics.MEMORY_WORKING_SET: memory / RESIDENT_SHARE,
        metrics.NETWORK_RECEIVE: received,
        metrics.NETWORK_TRANSMIT: sent,
        metrics.CPU_THROTTLED: np.where(moves, throttled, 0),
        metrics.MEMORY_RSS: memory,
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
    """Correlated noise around what the work explains."""

    def __init__(self, host: HostModel, shape: tuple[int, ...], at_s: np.ndarray, seed: Sequence[int]) -> None:
        self._host, self._shape, self._seed = host, shape, seed
        step_s = float(np.median(np.diff(at_s))) if len(at_s) > 1 else 1.0
        self._keep = float(np.exp(-step_s / host.noise_tau_s))

    def factor(self, metric: Metric) -> np.ndarray:
        """Return exp of an autoregressive series of first order per service, of the metric's spread."""
        sigma = self._host.noise.get(metric.name, 0.0)
        if not sigma:
            return np.ones(self._shape)
        from scipy.signal import lfilter

        shocks = own_stream(self._seed, metric).standard_normal(self._shape)
        shocks[1:] *= np.sqrt(1 - self._keep**2)
        return np.exp(sigma * lfilter([1.0], [1.0, -self._keep], shocks, axis=0))
