"""When samples stop at the fault, or begin with it: the score of absence, for every method.

A service that is killed, frozen or cut off sends no more samples; an error counter may have none before the fault. That
a column is there is a series of its own, 1 or 0, and it changed from "there" to "not there", or back. How far is
measured like any other change, by how unlikely it would be without one:

    score = sqrt(w (G - max(0, G' - G)))

* ``G`` is the statistic of the likelihood ratio test that the column is there as often after the inject time as before
  it. Its root counts in standard deviations, so it stands beside :func:`tasks.rca.features.deviation.deviation_scores`:
  a column that is always there in n rows before and never in n rows after scores sqrt(2.8 n). One missed scrape among
  many gives about 1, half of the samples missing about two thirds of the whole.
* A column is there from each sample until the next is due, that is for the longest step between two of its samples in
  the window in which it has more of them. So a metric sampled every fourth row, or only when there is traffic, is not
  silent in between. ``w`` is the share of rows with a sample among those in which it is there: the rows in between are
  no observations.
* ``G'`` is the largest such statistic for any moment before the inject time: what stopped or began before the fault did
  not do so because of it, and loses its score the earlier that was.
* What befalls most says nothing about one: the score that more than half of them reach (of the columns of this metric,
  if three services have it, else of the services, each with the mean of its columns) is taken off. So telemetry that is
  lost as a whole accuses nobody.

Scores are finite, 0 for a column that is there alike in both windows (anything below 1 counts as 0), and depend on
nothing but where samples are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import xlogy

SIGNIFICANT = 3.0
"""Standard deviations from which on absence is taken for a fact, where a method needs a yes or no."""

_LEAST_PEERS = 3
_LEAST_STATISTIC = 1.0
_RESOLUTION = 1e-9


@dataclass(frozen=True)
class Silence:
    """Silence per column of a table. ``stopped``, ``began``: scores, at most one of them above 0. ``share``: how much
    of the expected samples is missing in the silent window, 0 to 1. ``cells``: (rows, columns) bool, the silent cells.
    """

    stopped: np.ndarray
    began: np.ndarray
    share: np.ndarray
    cells: np.ndarray

    @property
    def score(self) -> np.ndarray:
        return np.maximum(self.stopped, self.began)


def find_silence(table: pd.DataFrame, abnormal: np.ndarray) -> Silence:
    """Find what stopped or began at the inject time.

    ``table``: one row per step in the order of time, one column per (service, what is measured), NaN: no sample.
    ``abnormal``: (rows,) bool, False before the inject time and True from it on. O(rows x columns with gaps).
    """
    present = ~np.isnan(table.to_numpy(dtype=float))
    return silence_of(present, table.columns, len(present) - int(np.count_nonzero(abnormal)))


def silence_of(present: np.ndarray, columns: pd.Index, normal: int) -> Silence:
    """Do as :func:`find_silence` for a table with ``columns`` that has a sample where (rows, columns) ``present`` is
    True, and whose first ``normal`` rows are before the inject time."""
    rows, width = present.shape
    scores, share, cells = np.zeros((2, width)), np.zeros(width), np.zeros(present.shape, dtype=bool)
    gaps = np.flatnonzero(~present.all(axis=0)) if 0 < normal < rows else np.empty(0, dtype=int)
    if len(gaps):
        before, after = (part[:, gaps].mean(axis=0) for part in (present[:normal], present[normal:]))
        for kind, chosen in enumerate((gaps[after < before], gaps[before < after])):
            forward = slice(None, None, -1 if kind else 1)
            there, density = _there(present[forward, chosen], rows - normal if kind else normal)
            there = there[forward]
            scores[kind, chosen], share[chosen] = _change(there, density, normal, falls=not kind)
            cells[:, chosen] = ~there & ((np.arange(rows) >= normal)[:, None] != bool(kind))
        for score in scores:
            if score.any():
                score[:] = np.maximum(score - _common(score, columns), 0.0)
    silent = scores.max(axis=0) > 0
    return Silence(scores[0], scores[1], np.where(silent, share, 0.0), cells & silent)


def _there(present: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) whether a sample came less than one step ago, and (columns,) samples per row in which one
    did.

    The step is the longest between two samples within the ``first`` rows.
    """
    rows = np.arange(len(present))[:, None]
    latest = np.maximum.accumulate(np.where(present, rows, -1), axis=0)
    earlier = np.vstack([np.full((1, present.shape[1]), -1), latest[:-1]])
    between = np.where(present & (earlier >= 0), rows - earlier, 1)
    step = between[:first].max(axis=0, initial=1)
    there = (latest >= 0) & (rows - latest < step)
    density = np.count_nonzero(present, axis=0) / np.maximum(np.count_nonzero(there, axis=0), 1)
    return there, density


def _change(there: np.ndarray, density: np.ndarray, normal: int, *, falls: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (columns,) scores and shares of what is missing, before peers are looked at."""
    rows = len(there)
    total, before = there.sum(axis=0), there[:normal].sum(axis=0)
    at_fault = _statistic(before, normal, total, rows, falls=falls)
    score = np.zeros(len(total))
    kept = np.flatnonzero(density * at_fault >= _LEAST_STATISTIC)
    if len(kept):
        counts = np.cumsum(there[: normal - 1, kept], axis=0, dtype=np.int32)
        splits = np.arange(1, normal)[:, None]
        earlier = _statistic(counts, splits, total[kept], rows, falls=falls).max(axis=0, initial=0.0)
        kept_statistic = at_fault[kept] - np.maximum(earlier - at_fault[kept], 0.0)
        score[kept] = np.sqrt(density[kept] * np.maximum(kept_statistic, 0.0))
    rates = before / normal, (total - before) / (rows - normal)
    more, fewer = rates if falls else rates[::-1]
    return score, np.clip(1 - np.divide(fewer, more, out=np.ones_like(more), where=more > 0), 0.0, 1.0)


def _statistic(before: np.ndarray, split: np.ndarray | int, total: np.ndarray, rows: int, *, falls: bool) -> np.ndarray:
    """Return 2 ln of the likelihood ratio of two rates, split at row ``split``, to one; 0 for the wrong direction."""
    after, left = total - before, rows - split
    gain = _log_likelihood(before, split) + _log_likelihood(after, left) - _log_likelihood(total, rows)
    changed = after * split < before * left if falls else before * left < after * split
    return np.where(changed, np.maximum(2 * gain, 0.0), 0.0)


def _log_likelihood(count: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
    """Return the largest log likelihood of ``count`` samples in ``rows``."""
    share = count / rows
    likelihood: np.ndarray = xlogy(count, share) + xlogy(rows - count, 1 - share)
    return likelihood


def _common(score: np.ndarray, columns: pd.Index) -> np.ndarray:
    """Return (columns,) the score that more than half of a column's peers reach, itself among them."""
    service, services = pd.factorize(columns.get_level_values(0))
    metric, metrics = pd.factorize(columns.get_level_values(1))
    mean = np.bincount(service, weights=score) / np.bincount(service)
    of_services = float(np.sort(mean)[(len(services) - 1) // 2])
    size = np.bincount(metric, minlength=len(metrics))
    order = np.lexsort((score, metric))
    middle = np.cumsum(size) - size + (size - 1) // 2
    of_metric = np.where(size >= _LEAST_PEERS, score[order][middle], of_services)
    return of_metric[metric]


def fill_silence(
    values: np.ndarray, silence: Silence, abnormal: np.ndarray, *, away: float, at_least: float = 0.0
) -> np.ndarray:
    """Return a copy of ``values`` (rows, columns) in which absence shows, for methods that learn from complete series.

    Where a column is silent beyond doubt (``SIGNIFICANT``) its missing cells get the mean of its samples in the other
    window plus ``away`` (1 or -1) times its score in their standard deviations, and at least the share ``at_least`` of
    their mean; if they are all the same, their size. Other gaps stay NaN. ``abnormal``: (rows,) bool, True from the
    inject time on.
    """
    filled = values.copy()
    chosen = np.flatnonzero(silence.score >= SIGNIFICANT)
    if not len(chosen):
        return filled
    other = abnormal[:, None] == (silence.began[chosen] > 0)
    samples = np.where(other, values[:, chosen], np.nan)
    largest = np.nanmax(np.abs(samples), axis=0)
    largest = np.where(largest > 0, largest, 1.0)
    mean, spread = np.nanmean(samples / largest, axis=0), np.nanstd(samples / largest, axis=0)
    distance = np.where(spread > _RESOLUTION, silence.score[chosen] * spread, 1.0)
    distance = np.maximum(distance, at_least * np.abs(mean))
    level = (mean + away * distance) * largest
    filled[:, chosen] = np.where(silence.cells[:, chosen], level, values[:, chosen])
    return filled
