"""History only: how far the typical value of each metric moved from its own past, beyond its noise and beyond what
matters."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.rca.features.deviation import require_windows
from tasks.rca.features.silence import find_silence
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView, column_names

FLOORS = {"ratio": np.log(1.15), "share": 0.05, "count": 0.5}
"""Smallest changes that an operator cares about: 15 %, 5 points of a share, half a unit of 2 sqrt(count)."""
COUNTS = frozenset({"requests", "processes", "pods", "replicas", "events", "sequences"})
SHARES = frozenset({"ratio", "s/s"})
_OFFSET = 0.05
Scale = Literal["ratio", "share", "count"]


@method(
    name="history_only",
    family="metric",
    needs={"metrics"},
    paper=Paper("History only: a baseline of deviation from the own past", "RCArena docs", 2026),
    beyond=True,
)
def history_only(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Metrics by how far their median moved after the fault, in noise of their own past, small changes left aside.

    What a comparison with the own past alone can tell, with the same scales and floors as a method that also looks at
    siblings and load. Scales: shares (of one, or seconds per second) as they are, counts as 2 sqrt, everything else as
    a logarithm (of the value plus 5 % of the largest, so that zero has one). Noise: the root mean square of the
    differences between the medians of adjacent halves of the normal window, sliding over it, and a floor (a change of
    15 %, 0.05, or 0.5), added as squares. Score: |difference of medians| / noise. Ranks metrics; a service scores as
    its worst one. Inputs: metrics, inject time, units (context, else the vocabulary). Parameters: none. Complexity:
    O(columns x rows^2). Randomness: none. Source: this project; the statistic is that of a median shift. Deviations:
    where samples stop or begin at the fault, the larger of the score and :mod:`tasks.rca.features.silence`.
    """
    normal, abnormal = view.split()
    require_windows(normal, abnormal)
    names = column_names(view.metrics)
    scales = np.array([scale_of(unit_of(view, *name)) for name in names])
    before, after = _scaled(normal.to_numpy(dtype=float), abnormal.to_numpy(dtype=float), scales)
    floors = np.array([FLOORS[scale] for scale in scales])
    known = ~np.isnan(before).all(axis=0) & ~np.isnan(after).all(axis=0)
    scores = np.full(len(names), np.nan)
    moved = np.abs(np.nanmedian(after[:, known], axis=0) - np.nanmedian(before[:, known], axis=0))
    scores[known] = moved / np.hypot(_noise(before[:, known]), floors[known])
    silence = find_silence(view.metrics, np.asarray(view.metrics.index >= view.inject_time)).score
    return Ranking.of_metrics(
        pd.Series(np.where(silence > 0, np.fmax(scores, silence), scores), index=view.metrics.columns)
    )


def unit_of(view: CaseView, service: str, metric: str) -> str:
    """Return the unit that the case says, else that of the vocabulary; empty if neither knows."""
    facts = view.context.metrics.get((service, metric))
    known = metrics.METRICS.get(metric) or metrics.IMPORTED.get(metric)
    return (facts.unit if facts is not None else None) or (known.unit if known is not None else "")


def scale_of(unit: str) -> Scale:
    return "share" if unit in SHARES else "count" if unit in COUNTS else "ratio"


def _scaled(before: np.ndarray, after: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([before, after])
    scaled = values.copy()
    count = scales == "count"
    scaled[:, count] = 2 * np.sqrt(np.maximum(values[:, count], 0.0))
    ratio = scales == "ratio"
    largest = np.fmax.reduce(np.abs(values[:, ratio]), axis=0)
    relative = np.maximum(values[:, ratio] / np.where(largest > 0, largest, 1.0), 0.0)
    scaled[:, ratio] = np.log(relative + _OFFSET)
    return scaled[: len(before)], scaled[len(before) :]


def _noise(before: np.ndarray) -> np.ndarray:
    """Return (columns,) the root mean square difference of the medians of adjacent half windows; 0 if there is none."""
    half = len(before) // 2
    if not half:
        return np.zeros(before.shape[1])
    medians = pd.DataFrame(before).rolling(half, min_periods=1).median().to_numpy()
    squares = (medians[2 * half - 1 :] - medians[half - 1 : len(before) - half]) ** 2
    count = np.count_nonzero(~np.isnan(squares), axis=0)
    noise: np.ndarray = np.sqrt(np.nansum(squares, axis=0) / np.maximum(count, 1))
    return noise
