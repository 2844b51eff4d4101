"""Puts the times of samples on a common grid: its step is the usual one, and a hole stays a hole.

Samples come with jitter, with holes of any length, and some metrics less often than others. A sample of a metric is one
step after the sample before it, whatever the jitter; metrics that are taken at different moments of a step share a row.
"""

from __future__ import annotations

import numpy as np

from tasks.rca.features.rows import usual_gap

_PERIODIC = 0.5  # length of the mean vector of phases from which on samples have a moment of the step of their own
_FINER = 0.6  # most gaps of a metric below this many steps: it is sampled more often
_RUN_STEPS = 2.5  # samples further apart are two runs, each with a moment of the step of its own


def on_grid(time: np.ndarray, column: np.ndarray, boundary: int) -> tuple[np.ndarray, int]:
    """Return the row (its time, ns) of each sample, and the step (ns; 0 without two samples of one column).

    ``time``: (samples,) ns since the epoch; ``column``: (samples,) number of the metric. Times that lie on a grid of
    the usual step stay as they are. No row has samples from before ``boundary`` and from it on: the step around it is
    two rows if need be, the first timed just before the boundary, the second not before it.
    """
    order = np.lexsort((time, column))
    ordered, owner = time[order], column[order]
    gaps = np.diff(ordered)
    same = np.diff(owner) == 0
    step = usual_gap(gaps[same])
    start = time.min() if len(time) else 0
    if step == 0 or not np.any((time - start) % step):
        return time, step
    since = (ordered - start).astype(float)
    step_ns = _precise_step(ordered, owner, float(step))
    run = np.concatenate([[0], np.cumsum(~same | (gaps > _RUN_STEPS * step_ns))])
    angle = 2 * np.pi * (since / step_ns % 1.0)
    centre, _ = _mean_angle(angle, np.zeros_like(run))
    phase, periodic = _mean_angle(angle, run)
    offset = np.where(periodic, (phase - centre + np.pi) % (2 * np.pi) - np.pi, 0.0)[run]
    tick = np.rint(since / step_ns - (centre[0] + offset) / (2 * np.pi))
    row = start + np.rint((tick + centre[0] / (2 * np.pi)) * step_ns).astype(np.int64)
    row = np.where(ordered < boundary, np.minimum(row, boundary - 1), np.maximum(row, boundary))
    placed = np.empty_like(time)
    placed[order] = row
    return placed, round(step_ns)


def _precise_step(ordered: np.ndarray, owner: np.ndarray, step: float) -> float:
    """Return the step, as precise as the jitter divided by the number of steps that a metric was sampled for.

    Samples 1, 2, 4 ... places apart are a whole number of steps apart; each round knows the step well enough for the
    number of the next. Pairs with more lost steps between them than samples do not count, nor do metrics that are
    sampled more often.
    """
    short = np.bincount(owner[1:], (np.diff(owner) == 0) & (np.diff(ordered) < _FINER * step), minlength=owner[-1] + 1)
    coarse = (2 * short < np.bincount(owner))[owner]
    ordered, owner = ordered[coarse], owner[coarse]
    apart = 1
    while apart < len(ordered):
        same = owner[apart:] == owner[:-apart]
        time = (ordered[apart:] - ordered[:-apart])[same]
        steps = np.rint(time / step)
        known = (steps > 0) & (steps <= 2 * apart)
        if not known.any():
            break
        step = float(np.median(time[known] / steps[known]))
        apart *= 2
    return step


def _mean_angle(angle: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the circular mean of the angles of each group, and whether they agree on one."""
    count = np.bincount(group)
    x, y = (np.bincount(group, part) / count for part in (np.cos(angle), np.sin(angle)))
    return np.arctan2(y, x), np.hypot(x, y) > _PERIODIC
