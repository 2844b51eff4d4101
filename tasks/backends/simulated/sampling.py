"""Metrics as a Prometheus server would have them: each target is scraped at times of its own, scrapes fail, counters
become rates over a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.case import METRICS
from tasks.metrics import Metric

SOURCE = "simulated"
"""The source of every sample of this backend."""


@dataclass(frozen=True)
class Scrapes:
    """For each time of the grid and target: the position of its last scrape in the recorded states, that of the scrape
    a rate window earlier, and their times. Shape (times, targets). ``seen``: the last scrape succeeded; ``seen_then``:
    the earlier one did."""

    now: np.ndarray
    then: np.ndarray
    now_s: np.ndarray
    then_s: np.ndarray
    seen: np.ndarray
    seen_then: np.ndarray

    def gauge(self, states: np.ndarray) -> np.ndarray:
        """Return the last value of each target, NaN where its scrape failed. ``states``: (recorded times, targets)."""
        return np.where(self.seen, self._at(self.now, states), np.nan)

    def rate(self, states: np.ndarray) -> np.ndarray:
        """Return the growth of a counter per second over the window, which starts at 0 again with its process."""
        now, then = self._at(self.now, states), self._at(self.then, states)
        grown = np.where(now >= then, now - then, now)
        seconds = np.maximum(self.now_s - self.then_s, 1e-6)
        return np.where(self.seen & self.seen_then, grown / seconds, np.nan)

    def _at(self, position: np.ndarray, states: np.ndarray) -> np.ndarray:
        return np.take_along_axis(np.asarray(states, dtype=float), position, axis=0)


class ScrapeSchedule:
    """When each target is scraped."""

    def __init__(self, targets: int, interval_s: float, jitter_s: float, missed: float, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._interval_s, self._missed = interval_s, missed
        self._phase = self._rng.uniform(0, interval_s, targets)
        self._jitter_s = min(jitter_s, interval_s / 4)

    def scrapes(
        self, grid_s: np.ndarray, window_s: float, states_s: np.ndarray, answers: Answers, report_s: float = 0
    ) -> Scrapes:
        """Return the scrapes behind each time of the grid (s after the start of the load). ``report_s``: a scrape sees
        what its target last reported, which it does so often, at times of its own."""
        now_s, number = self._last(grid_s)
        then_s, number_then = self._last(grid_s - window_s)
        first = int(number_then.min())
        failed = self._rng.random((int(number.max()) - first + 1, len(self._phase))) < self._missed
        column = np.arange(len(self._phase))
        return Scrapes(
            now=_position(states_s, self._reported(now_s, report_s)),
            then=_position(states_s, self._reported(then_s, report_s)),
            now_s=now_s,
            then_s=then_s,
            seen=answers.at(now_s) & ~failed[number - first, column],
            seen_then=answers.at(then_s) & ~failed[number_then - first, column],
        )

    def _reported(self, at_s: np.ndarray, report_s: float) -> np.ndarray:
        if not report_s:
            return at_s
        phase = self._phase / self._interval_s * report_s
        return phase + np.floor((at_s - phase) / report_s) * report_s

    def _last(self, at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = np.floor((at_s[:, None] - self._phase) / self._interval_s).astype(int)
        jitter = self._jitter_s * _hash_unit(number, len(self._phase))
        return self._phase + number * self._interval_s - jitter, number


@dataclass(frozen=True)
class Answers:
    """Whether targets answer a scrape: (worlds, targets) and the times at which worlds begin."""

    begins_s: np.ndarray
    answers: np.ndarray

    def at(self, at_s: np.ndarray) -> np.ndarray:
        world = np.searchsorted(self.begins_s, at_s, side="right") - 1
        return np.take_along_axis(self.answers, world, axis=0)


def _position(states_s: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(states_s, at_s, side="right") - 1, 0, len(states_s) - 1)


def _hash_unit(number: np.ndarray, targets: int) -> np.ndarray:
    """Return a fixed fraction in [0, 1) for each (scrape, target): the same scrape is at the same time whoever asks."""
    mixed = (number * 2_654_435_761 + np.arange(targets) * 40_503) & 0xFFFF
    return mixed / 0x10000


def metric_rows(
    metric: Metric, values: np.ndarray, services: np.ndarray, times_ns: np.ndarray, names: pa.Array, rows: int
) -> Iterator[pa.Table]:
    """Yield rows of the metrics signal, ``rows`` of them at most each.

    Args:
        values: shape (times, services).
        services: positions of the columns in ``names``, the names of all services.
    """
    times, width = values.shape
    at_once = max(1, rows // max(width, 1))
    for begin in range(0, times, at_once):
        part = np.ascontiguousarray(values[begin : begin + at_once], dtype=float)
        count = part.size
        yield pa.Table.from_arrays(
            [
                pa.array(np.repeat(times_ns[begin : begin + at_once], width)).cast(METRICS.field("time").type),
                pa.DictionaryArray.from_arrays(pa.array(np.tile(services, len(part)).astype(np.int32)), names),
                _constant(metric.name, count),
                pa.array(part.ravel()),
                _constant(metric.unit, count),
                _constant(SOURCE, count),
            ],
            schema=METRICS,
        )


def _constant(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text]))
