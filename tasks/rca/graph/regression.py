"""Regression-based hypothesis testing and descendant adjustment over a causal graph: the core of CIRCA.

Source: Li et al., "Causal Inference-Based Root Cause Analysis for Online Service Systems with Intervention
Recognition", KDD 2022.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION, deviation_scores
from tasks.rca.features.panel import Panel
from tasks.rca.features.rows import with_past
from tasks.rca.graph.causal_graph import DirectedEdges
from tasks.rca.method import MethodError

_LEAST_NORMAL_ROWS = 4
_COLLINEAR = 1e-6
_APART = 1e-8


def require_normal_rows(panel: Panel, lags: int) -> None:
    """Raise :class:`MethodError` if too few rows before the inject time have their ``lags`` steps before them."""
    normal_rows = int(np.count_nonzero(~panel.abnormal[with_past(panel.ticks, lags)]))
    if normal_rows < _LEAST_NORMAL_ROWS:
        raise MethodError(
            f"{normal_rows} metric rows before the inject time; CIRCA needs at least {_LEAST_NORMAL_ROWS}"
        )


def regression_scores(panel: Panel, graph: DirectedEdges, *, lags: int, threshold: float) -> np.ndarray:
    """Return (columns,) scores of the panel's columns: residuals, adjusted by ``threshold``, equal ones causes first.

    :func:`tasks.rca.metric.circa.circa` describes them.
    """
    scores = residual_scores(panel.values, panel.abnormal, graph, lags=lags, ticks=panel.ticks)
    return causes_first(adjusted(scores, graph, threshold), graph)


def residual_scores(
    values: np.ndarray, abnormal: np.ndarray, graph: DirectedEdges, *, lags: int, ticks: np.ndarray | None = None
) -> np.ndarray:
    """(columns,) largest absolute residual after the inject time, in standard deviations of those before it.

    ``values``: (rows, columns); ``abnormal``: (rows,) bool; ``ticks``: (rows,) number of the sampling step of each row
    (default: no hole). The regressions know the normal rows only, and of those the rows whose ``lags`` steps before are
    there.
    """
    now = with_past(np.arange(len(values)) if ticks is None else ticks, lags)
    rows = len(now)
    normal = ~abnormal[now]
    centred = values - values[~abnormal].mean(axis=0)
    lagged = np.stack([centred[now - lag] for lag in range(lags + 1)])
    count = int(np.count_nonzero(normal))
    residuals = np.empty((rows, values.shape[1]))
    ranks = np.zeros(values.shape[1])
    for column in range(values.shape[1]):
        target = lagged[0][:, column]
        target = target - target[normal].mean()
        causes = lagged[:, :, graph.parents(column)].transpose(1, 0, 2).reshape(rows, -1)
        design = _informative(causes, target, normal, most=(count - 2) // 2)
        slopes, _, ranks[column], _ = np.linalg.lstsq(design[normal], target[normal], rcond=_COLLINEAR)
        residual = target - design @ slopes
        residuals[:, column] = np.where(np.abs(residual) > RESOLUTION * np.max(np.abs(target)), residual, 0.0)
    frame = pd.DataFrame(residuals)
    scores = deviation_scores(frame[normal], frame[~normal], centre="mean").to_numpy()
    return scores * np.sqrt((count - 1 - ranks) / count)


def _informative(causes: np.ndarray, target: np.ndarray, normal: np.ndarray, *, most: int) -> np.ndarray:
    """Return the ``most`` correlated of the ``causes`` that move in the normal window, scaled to it."""
    centred = causes - causes[normal].mean(axis=0)
    spread = np.sqrt(np.mean(centred[normal] ** 2, axis=0))
    moves = spread > RESOLUTION * np.max(np.abs(causes), axis=0, initial=0.0)
    scaled = centred[:, moves] / spread[moves]
    if scaled.shape[1] <= most:
        return scaled
    relevance = np.abs(scaled[normal].T @ target[normal])
    return scaled[:, np.sort(np.argsort(-relevance, kind="stable")[:most])]


def adjusted(scores: np.ndarray, graph: DirectedEdges, threshold: float) -> np.ndarray:
    """Scores after descendant adjustment: what is anomalous below a cause speaks for the cause."""
    result = scores.copy()
    for column in np.flatnonzero(scores >= threshold):
        seen = {int(column)}
        pending = [int(column)]
        below = 0.0
        while pending:
            for effect in graph.effects(pending.pop()).tolist():
                if effect not in seen:
                    seen.add(effect)
                    below = max(below, scores[effect])
                    if scores[effect] < threshold:
                        pending.append(effect)
        result[column] += below
    return result


def causes_first(scores: np.ndarray, graph: DirectedEdges) -> np.ndarray:
    """``scores``, of which equal ones are set apart by a few parts in 10^8: the nearer to the roots the higher.

    A column's place is the length of the longest path to it. Columns on or below a circle, which only PC may leave,
    share the last place.
    """
    place = np.zeros(len(scores))
    left = np.ones(len(scores), dtype=bool)
    for step in range(len(scores)):
        caused = np.bincount(graph.effect[left[graph.cause]], minlength=len(scores)) > 0
        free = left & ~caused
        place[left] = step
        if not free.any():
            break
        left &= ~free
    return scores * (1 - _APART * place)
