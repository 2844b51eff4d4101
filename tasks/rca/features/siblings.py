"""What siblings share, and how much of a change is noise.

Siblings are services of one role. What they all do at once (load, a shared host, a slow caller) is no fault of one of
them, so the *shared part* of a change is taken off. For up to ``FEW`` siblings it is the smallest move if all moved the
same way, else nothing: that stays right with all but one of them at fault, where a median is wrong (two of three).
Beyond it is the median.

The *noise* of a change is what the same statistic, the shared part taken off, does between adjacent windows before the
fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Reference = Literal["shared", "none", "median"]
FEW = 7
LEAST_ROWS = 2
LEVELS = (0.5, 0.75)
"""Quantiles of a window that are compared: a fault of a third of the window shows in the upper one."""
SHARED_ERROR = 0.3
"""Siblings share a common change up to this part of it: they do not get the same share of the load."""
OBSERVATION_S = 2.0
"""A rate over some seconds, taken each second: rows of so many seconds say as much as one independent observation."""
_MAD_TO_DEVIATION = 1.4826
_RESOLUTION = 1e-6


def shared_part(change: np.ndarray, group: np.ndarray, reference: Reference) -> np.ndarray:
    """Return, for (..., services) changes, the part that the siblings of each service share; same shape.

    ``group``: (services,) code of the siblings. NaN: no change known. A service without siblings shares nothing.
    """
    part = np.zeros_like(change)
    if reference == "none":
        return part
    for code in np.unique(group):
        members = np.flatnonzero(group == code)
        if len(members) > 1:
            part[..., members] = _of_one_group(change[..., members], reference)[..., None]
    return part


def _of_one_group(change: np.ndarray, reference: Reference) -> np.ndarray:
    known = np.count_nonzero(~np.isnan(change), axis=-1)
    if reference == "median" or change.shape[-1] > FEW:
        middle = quantile(change, 0.5)
        return np.where(known > 1, middle, 0.0)
    low = np.fmin.reduce(change, axis=-1)
    high = np.fmax.reduce(change, axis=-1)
    with np.errstate(invalid="ignore"):
        smallest = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return np.where(known > 1, smallest, 0.0)


def quantile(values: np.ndarray, level: float) -> np.ndarray:
    """Return the quantile over the last axis, NaN left out; NaN where nothing is known."""
    return quantiles(values, (level,))[0]


def quantiles(values: np.ndarray, levels: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Return quantiles over the last axis, as :func:`quantile`; the values are sorted once."""
    ordered = np.sort(values, axis=-1)  # NaN last
    most = np.maximum(np.count_nonzero(~np.isnan(values), axis=-1) - 1, 0)
    found = []
    for level in levels:
        below = np.floor(level * most).astype(int)
        above = np.ceil(level * most).astype(int)
        low = np.take_along_axis(ordered, below[..., None], axis=-1)[..., 0]
        high = np.take_along_axis(ordered, above[..., None], axis=-1)[..., 0]
        with np.errstate(invalid="ignore"):
            found.append(low + (high - low) * (level * most - below))
    return tuple(found)


def adjacent_changes(values: np.ndarray, width: int) -> np.ndarray:
    """Return the changes of the mean between all adjacent windows of ``width`` rows: (..., rows, services) ->
    (..., windows, services); NaN where a window has no sample."""
    known = ~np.isnan(values)
    shape = (*values.shape[:-2], values.shape[-2] + 1, values.shape[-1])
    total, count = np.zeros(shape), np.zeros(shape)
    np.cumsum(np.where(known, values, 0.0), axis=-2, out=total[..., 1:, :])
    np.cumsum(known, axis=-2, out=count[..., 1:, :], dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[..., width:, :] - total[..., :-width, :]) / (count[..., width:, :] - count[..., :-width, :])
    return mean[..., width:, :] - mean[..., :-width, :]


def change_noise(values: np.ndarray, group: np.ndarray, reference: Reference) -> np.ndarray:
    """Return the root mean square of changes between adjacent windows of a third of the rows before the fault, pooled
    over siblings: (..., rows, services) -> (..., services). 0 where there are too few rows to tell."""
    width = max(LEAST_ROWS, values.shape[-2] // 3)
    shape = (*values.shape[:-2], values.shape[-1])
    if values.shape[-2] < 2 * width:
        return np.zeros(shape)
    changes = adjacent_changes(values, width)
    squares = (changes - shared_part(changes, group, reference)) ** 2
    noise = np.zeros(shape)
    for code in np.unique(group):
        members = np.flatnonzero(group == code)
        of_group = squares[..., members]
        known = ~np.isnan(of_group)
        total = np.where(known, of_group, 0.0).sum(axis=(-2, -1))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / known.sum(axis=(-2, -1))
        noise[..., members] = np.sqrt(np.nan_to_num(mean))[..., None]
    return noise


def sampling_error(values: np.ndarray, rows_per_observation: float) -> np.ndarray:
    """Return the standard error of the median of each window, from the typical difference of samples that follow each
    other, which a step hardly touches: (rows, services) -> (services,); 0 without two samples. Rows without a sample
    may lie between: some series have one per completed call."""
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], 0), axis=0)
    latest = np.take_along_axis(values, last, axis=0)  # NaN until the first sample
    with np.errstate(invalid="ignore"):
        steps = np.where(known[1:], np.abs(values[1:] - latest[:-1]), np.nan).T
    samples = np.count_nonzero(known, axis=0)
    deviation = quantile(steps, 0.5) * _MAD_TO_DEVIATION / np.sqrt(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = deviation * np.sqrt(np.pi / 2 * rows_per_observation / samples)
    return np.nan_to_num(error, nan=0.0, posinf=0.0)


@dataclass(frozen=True)
class Change:
    """A change per service, all (services,). ``z``: in units of its noise; ``own``: what siblings do not share;
    ``shared``: what they do; ``alone``: the noise without the doubt about the shared part."""

    z: np.ndarray
    own: np.ndarray
    shared: np.ndarray
    alone: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Judge:
    """Compares each service after the inject time with its own past and its siblings.

    ``group``: (services,) code of the siblings. ``history`` False: with its siblings only. ``floors`` False: against
    the noise alone.
    """

    group: np.ndarray
    reference: Reference = "shared"
    history: bool = True
    floors: bool = True
    step_s: float = 1.0

    def siblings(self, service: int) -> int:
        return int(np.count_nonzero(self.group == self.group[service]))

    def change(self, values: np.ndarray, before: np.ndarray, floor: float, *, once: bool = False) -> Change:
        """Return the change of (rows, services) ``values``, harmful up, the more harmful of ``LEVELS``. ``once``: of
        the highest values instead."""
        normal, now = values[before], values[~before]
        noise = change_noise(normal, self.group, self.reference) if self.history else 0.0
        error = sampling_error(now, max(1.0, OBSERVATION_S / self.step_s))
        alone = np.sqrt((floor if self.floors else _RESOLUTION) ** 2 + noise**2 + error**2)
        best: Change | None = None
        levels = (1.0,) if once else LEVELS
        usual = quantiles(np.ascontiguousarray(normal.T), levels)
        for level, during in enumerate(quantiles(np.ascontiguousarray(now.T), levels)):
            moved = during - usual[level] if self.history else _against_siblings(during, self.group)
            shared = shared_part(moved, self.group, self.reference if self.history else "none")
            z = (moved - shared) / np.hypot(alone, SHARED_ERROR * shared)
            new = Change(z, moved - shared, shared, alone)
            best = new if best is None else _more_harmful(best, new)
        assert best is not None
        return best


def _more_harmful(one: Change, other: Change) -> Change:
    keep = one.z >= other.z
    keep |= np.isnan(other.z)
    return Change(
        np.where(keep, one.z, other.z),
        np.where(keep, one.own, other.own),
        np.where(keep, one.shared, other.shared),
        one.alone,
    )


def _against_siblings(level: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return how far each service is from the median of its role; NaN without siblings."""
    away = np.full(level.shape, np.nan)
    for code in np.unique(group):
        members = np.flatnonzero(group == code)
        if len(members) > 1:
            away[members] = level[members] - quantile(level[members], 0.5)
    return away
