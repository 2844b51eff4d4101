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
    """``value`` describes the interval from ``start`` to ``end`` (monotonic seconds; equal for a moment).

    Where the value depends on them, ``load`` and ``work`` are requests running on average and tokens per second.
    """

    start: float
    end: float
    value: float
    load: float = 0.0
    work: float = 0.0


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


class Outcome(Probe):
    """Base of a second probe: what the fault does to the work of the target.

    ``criterion``: that of ``shows_effect``, as text that follows "an effect is". ``why_unmeasured``: what is wrong when
    a phase has no sample.
    """

    criterion: str
    why_unmeasured: str

    def shows_effect(self, before: float, during: float) -> bool:
        raise NotImplementedError

    def comparable(self, samples: Sequence[Sample], reference: Sequence[Sample]) -> list[float]:
        """Return the values of the samples under the conditions of ``reference``, samples from before the fault."""
        return [sample.value for sample in samples]


class StepTime(Outcome):
    """Base of the probes of an engine's decode step, in ms, under equal load.

    A step takes longer with more requests in the batch, so a surge alone must not look like a slow engine. But a slow
    engine collects requests, so a larger batch is no excuse when it does not get more work. A step is compared

    1. with those before the fault that had about as many requests running, if there are enough;
    2. else, if the engine generates no more tokens per second than before, with all those before;
    3. else with a step that grows in proportion to the batch: no engine grows faster.
    """

    name, unit = "decode step under equal load", "ms"
    interval_s = 2.0
    min_samples = 1
    before_window_s = 60.0
    rise = 0.15
    """Smallest rise that is an effect, as a share."""
    min_similar = 3
    more_work = 1.1
    """Tokens per second above this multiple of those before are more work."""

    @property
    def criterion(self) -> str:  # type: ignore[override]  # computed here, a constant there
        return f"a rise of {100 * self.rise:.0f} %"

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= (1 + self.rise) * before

    def comparable(self, samples: Sequence[Sample], reference: Sequence[Sample]) -> list[float]:
        if not reference:
            return []
        usual = statistics.median(each.value for each in reference)
        usual_load = statistics.median(each.load for each in reference)
        usual_work = statistics.fmean(each.work for each in reference)

        def expected(sample: Sample) -> float:
            similar = [each.value for each in reference if abs(each.load - sample.load) <= 0.5 + 0.1 * sample.load]
            if len(similar) >= self.min_similar:
                return statistics.median(similar)
            if sample.work <= self.more_work * usual_work or not usual_load:
                return usual
            return usual * max(1.0, sample.load / usual_load)

        return [each.value * usual / expected(each) for each in samples]
