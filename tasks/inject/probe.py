"""Probes measure the effect of a fault.

A probe yields samples; the guardian assigns them to the phases before, during and after by their times, and reduces
each phase to one value.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.inject.errors import FaultError


@dataclass(frozen=True)
class Sample:
    """``value`` describes the interval from ``start`` to ``end`` (monotonic seconds; equal for a moment)."""

    start: float
    end: float
    value: float


class Probe:
    """Base of the probes. ``tick`` is called every ``interval_s`` and must not block."""

    name: str
    unit: str
    interval_s: float = 0.5
    min_samples: int = 2
    before_window_s: float = 15.0
    """Length (s) of the phase before the fault; samples may be older than the probe."""
    late_s: float = 2.0
    """Maximum delay (s) until a sample becomes known."""

    def tick(self) -> list[Sample]:
        """Return the new samples since the last call; unreadable values are skipped."""
        raise NotImplementedError

    def reduce(self, values: Sequence[float]) -> float:
        return statistics.median(values)

    def close(self) -> None:
        """Release the probe's resources."""


class Gauge(Probe):
    """Samples the value of a function."""

    def __init__(self, name: str, unit: str, read: Callable[[], float]) -> None:
        self.name, self.unit, self._read = name, unit, read

    def tick(self) -> list[Sample]:
        now = time.monotonic()
        with contextlib.suppress(OSError, FaultError):  # unreadable: no sample
            return [Sample(now, now, self._read())]
        return []


class Rate(Probe):
    """Samples the growth of a counter per second; a phase is reduced to the mean, since the kernel counts in lumps."""

    def __init__(self, name: str, unit: str, read: Callable[[], float]) -> None:
        self.name, self.unit, self._read = name, unit, read
        self._last: tuple[float, float] | None = None

    def tick(self) -> list[Sample]:
        try:
            now, count = time.monotonic(), self._read()
        except (OSError, FaultError):
            return []
        last, self._last = self._last, (now, count)
        if last is None or now <= last[0]:
            return []
        return [Sample(last[0], now, max(0.0, count - last[1]) / (now - last[0]))]

    def reduce(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)
