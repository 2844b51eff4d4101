"""The rate of a load over a run, as a factor on ``load.rate``, and how arrivals follow it.

Arrivals are drawn in *operational time*, in which the rate is constant, and moved to real time by the inverse of the
integral of the factor. A Poisson process becomes a non-homogeneous Poisson process with exactly that rate (Çinlar,
Introduction to Stochastic Processes, 1975, section 4.7; Brown et al., The Time-Rescaling Theorem and Its Application to
Neural Spike Train Data Analysis, 2002); evenly spaced arrivals keep the same number of operational seconds between
them; a trace is played faster or slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.traffic import LoadShape

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Intensity:
    """A piecewise linear factor on the rate. Piece ``i`` begins at second ``at[i]`` of the run with ``level[i]`` and
    changes by ``slope[i]`` per second; the last one never ends. ``passed[i]``: its integral up to ``at[i]``."""

    at: Floats
    level: Floats
    slope: Floats
    passed: Floats

    @property
    def peak(self) -> float:
        """The highest factor at any time."""
        last = np.append(np.diff(self.at), 0.0)
        return float(np.max([self.level, self.level + self.slope * last]))

    def factor(self, time_s: Floats) -> Floats:
        """Return the factor at seconds of the run."""
        piece = np.searchsorted(self.at, time_s, side="right") - 1
        return self.level[piece] + self.slope[piece] * (time_s - self.at[piece])

    def operational(self, time_s: Floats) -> Floats:
        """Return the integral of the factor from 0 to ``time_s``: operational seconds."""
        piece = np.searchsorted(self.at, time_s, side="right") - 1
        within = time_s - self.at[piece]
        return self.passed[piece] + within * (self.level[piece] + self.slope[piece] * within / 2)

    def real(self, operational_s: Floats) -> Floats:
        """Return the inverse of ``operational`` for times that do not decrease; where no rate is, the end of the pause.

        Within a piece ``level·t + slope·t²/2 = u`` is solved in the form that loses no digits for a small slope.
        """
        piece = np.searchsorted(self.passed, operational_s, side="right") - 1
        level, slope = self.level[piece], self.slope[piece]
        left = operational_s - self.passed[piece]
        root = np.sqrt(np.maximum(level**2 + 2 * slope * left, 0.0))
        end = np.append(self.at[1:], np.inf)[piece]
        return np.maximum.accumulate(np.minimum(self.at[piece] + 2 * left / (level + root), end))


def intensity(shapes: Sequence[LoadShape], fault_start_s: float) -> Intensity:
    """Return the product of ``shapes`` in a run whose fault window begins ``fault_start_s`` seconds after its start.

    Ramps must not overlap each other: the product of two would not be linear.
    """
    edges = [0.0]
    for shape in shapes:
        start = fault_start_s + shape.start_s
        edges += [start, start + shape.duration_s]
        if shape.kind == "burst":
            begins = start + _period(shape) * np.arange(_periods(shape))
            edges += [*begins, *(begins + _period(shape) / shape.factor)]
    at = np.unique(np.maximum(edges, 0.0))
    middle = np.append((at[1:] + at[:-1]) / 2, at[-1] + 1)
    level, slope = np.ones(len(at)), np.zeros(len(at))
    for shape in shapes:
        since = middle - (fault_start_s + shape.start_s)
        inside = (since >= 0) & (since < shape.duration_s)
        if shape.kind == "ramp":
            rise = (shape.factor - 1) / shape.duration_s
            here = 1 + rise * (at - (fault_start_s + shape.start_s))
            slope = slope * np.where(since >= shape.duration_s, shape.factor, 1.0) + np.where(inside, level * rise, 0.0)
            level = level * np.where(inside, here, np.where(since >= shape.duration_s, shape.factor, 1.0))
            continue
        factor = np.where(inside, shape.factor, 1.0)
        if shape.kind == "burst":
            on = since % _period(shape) < _period(shape) / shape.factor
            factor = np.where(inside & ~on, 0.0, factor)
        level, slope = level * factor, slope * factor
    length = np.diff(at)
    passed = np.concatenate([[0.0], np.cumsum(length * (level[:-1] + slope[:-1] * length / 2))])
    return Intensity(at, level, slope, passed)


def _periods(shape: LoadShape) -> int:
    return max(1, round(shape.duration_s / shape.period_s))


def _period(shape: LoadShape) -> float:
    return shape.duration_s / _periods(shape)
