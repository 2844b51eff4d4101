"""Siblings only: who differs from the services that do the same work, and keeps differing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.features.panel import fill_gaps
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView, column_names

if TYPE_CHECKING:
    from tasks.stack import Role

LEAST_SIBLINGS = 3
_TIE = 1e-9


@method(
    name="siblings_only",
    family="metric",
    needs={"metrics"},
    paper=Paper("Minder: Faulty Machine Detection for Large-scale Distributed Model Training", "NSDI", 2025),
    beyond=True,
)
def siblings_only(view: CaseView, rng: np.random.Generator, *, window: int = 8) -> Ranking:
    """Metrics by how far, and for how long, a service stays away from its siblings; its own past is not looked at.

    Described: machines of one task are alike (similarity); each metric is judged by itself; in every window of samples
    each machine has the sum of its distances to all others, standardised over the machines; the same machine must be
    furthest for a while (continuity). Decided here: siblings are services of the same role that have the metric, three
    at least (of two, none stands out); services without siblings (gateway, head, and all of a data set that does not
    say who does the same work) are left out. Per window of ``window`` rows after the inject time: Euclidean distances
    of the samples, summed, as a z score divided by the largest that one of n can have, sqrt(n - 1). A metric scores
    the mean of that over its service's longest run of windows in which it is furthest, times the share of all windows
    that the run takes.
    Ranks metrics; a service scores as its worst one. Inputs: metrics, inject time (where to begin), roles. Parameters:
    ``window`` 8 rows. Complexity: O(metrics x rows x window x siblings^2). Randomness: none. Source: Deng et al., NSDI
    2025 (arXiv 2411.01791). Deviations: no auto-encoder denoises the windows, there are too few rows to train one; no
    thresholds of distance and of minutes, as a ranking is asked for; all metrics count alike, as their learned order
    needs labels. Missing samples take the last one before; a service without any in a window in which more than half of
    its siblings have some is furthest there by its silence.
    """
    after = view.metrics[np.asarray(view.metrics.index >= view.inject_time)]
    if after.empty or not np.isfinite(after.to_numpy()).any():
        raise MethodError("no metric sample after the inject time")
    scores: dict[tuple[str, str], float] = {}
    names = column_names(view.metrics)
    for columns in _groups(names, view.roles):
        samples = after.iloc[:, columns].to_numpy(dtype=float)
        for column, score in zip(columns, _scores(samples, min(window, len(samples))), strict=True):
            scores[names[column]] = score
    if not scores:
        raise MethodError(f"no role has {LEAST_SIBLINGS} services with the same metric")
    return Ranking.of_metrics(pd.Series(scores))


def _groups(names: Sequence[tuple[str, str]], roles: Mapping[str, Role]) -> Iterator[list[int]]:
    """Yield the columns of each metric of each role that has siblings."""
    groups: dict[tuple[str, str], list[int]] = {}
    for column, (service, metric) in enumerate(names):
        role = roles.get(service, "service")
        if role != "service":
            groups.setdefault((role, metric), []).append(column)
    yield from (columns for columns in groups.values() if len(columns) >= LEAST_SIBLINGS)


def _scores(samples: np.ndarray, window: int) -> np.ndarray:
    """Return (siblings,) scores of one metric for ``samples`` (rows, siblings)."""
    present = ~np.isnan(samples)
    heard = np.asarray(_windows(present, window).any(axis=1))  # (windows, siblings)
    silent = ~heard & (heard.mean(axis=1) > 0.5)[:, None]
    known = present.any(axis=0)
    apart = np.zeros(heard.shape)
    if np.count_nonzero(known) >= LEAST_SIBLINGS:
        filled = fill_gaps(samples[:, known])
        largest = np.max(np.abs(filled))
        apart[:, known] = _standardised(_distances(_windows(filled / (largest or 1.0), window)))
    apart = np.asarray(np.where(silent.any(axis=1)[:, None], _standardised(silent.astype(float)), apart))
    furthest = (apart >= apart.max(axis=1)[:, None] - _TIE) & (apart > 0)
    return np.array([_lasting(*both) for both in zip(apart.T, furthest.T, strict=True)])


def _windows(values: np.ndarray, window: int) -> np.ndarray:
    """Return (windows, window, siblings) views of ``values`` (rows, siblings)."""
    return np.lib.stride_tricks.sliding_window_view(values, window, axis=0).swapaxes(1, 2)


def _distances(windows: np.ndarray) -> np.ndarray:
    """Return (windows, siblings) the sum of the Euclidean distances of each sibling's window to the others'."""
    from scipy.spatial.distance import cdist

    return np.stack([cdist(one.T, one.T).sum(axis=1) for one in windows])


def _standardised(distances: np.ndarray) -> np.ndarray:
    """Return z scores over the siblings of (windows, siblings), as a share of the largest possible one."""
    centred = distances - distances.mean(axis=1)[:, None]
    spread = np.sqrt(np.mean(centred**2, axis=1))[:, None]
    moves = spread > RESOLUTION * np.max(distances, axis=1, initial=0.0)[:, None]
    share = np.divide(centred, spread, out=np.zeros_like(centred), where=moves & (spread > 0))
    return share / np.sqrt(distances.shape[1] - 1)


def _lasting(apart: np.ndarray, furthest: np.ndarray) -> float:
    """Return the mean of ``apart`` (windows,) over the longest run of windows in which it is furthest, times the run's
    share; of equally long runs the one further apart."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], furthest.astype(int), [0]]))).tolist()
    runs = [(end - start, float(apart[start:end].mean())) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    length, mean = max(runs, default=(0, 0.0))
    return float(mean * length / len(furthest))
