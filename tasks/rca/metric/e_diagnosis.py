"""e-Diagnosis: which metrics changed their distribution."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import comb, ndtr

from tasks.rca.features.deviation import RESOLUTION, require_windows
from tasks.rca.features.silence import find_silence
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="e_diagnosis",
    family="metric",
    needs={"metrics"},
    seeded=True,
    paper=Paper(
        "e-Diagnosis: Unsupervised and Real-time Diagnosis of Small-window Long-tail Latency in Large-scale "
        "Microservice Platforms",
        "WWW",
        2019,
    ),
)
def e_diagnosis(view: CaseView, rng: np.random.Generator, *, alpha: float = 0.01, permutations: int = 199) -> Ranking:
    """Metrics whose distribution changed, by a two-sample test on the energy distance.

    Ranks metrics; a service scores as its worst one. A metric with p <= ``alpha`` scores H, the energy distance between
    the two windows as a share of its greatest possible value (0: same distribution, 1: two different constants); any
    other scores H - 1, so every significant change outranks every insignificant one. Inputs: metrics, inject time.
    Parameters: ``alpha`` 0.01, ``permutations`` 199 (they give the p value). Complexity: O(columns x (rows log rows +
    permutations x rows)). Randomness: the permutations, which all columns with equally many samples share.
    Source: Shan et al., WWW 2019 (test on epsilon statistics between a normal and an abnormal window); the statistic is
    that of Szekely and Rizzo, "Testing for equal distributions in high dimension", InterStat 2004.
    A metric whose samples stop or begin at the fault changed, too: its H is the share of the samples that are missing,
    its p value that of its score by :mod:`tasks.rca.features.silence` (no less than a permutation of the rows could
    have); the larger of both scores counts. Deviations: the paper takes change as evidence and so do we; a widely used
    implementation takes similarity between arbitrarily aligned rows. All metrics are ranked, not the first three. The
    windows are whole, not cut to equal length. Like the paper's, the test takes samples as independent; neighbouring
    samples are not, so p values are optimistic.
    """
    normal, abnormal = view.split()
    require_windows(normal, abnormal)
    share, p_value = energy_test(normal.to_numpy(), abnormal.to_numpy(), permutations, rng)
    change = np.where(p_value <= alpha, share, share - 1)
    silence = find_silence(view.metrics, np.asarray(view.metrics.index >= view.inject_time))
    surest = 1 / comb(len(normal) + len(abnormal), len(normal))
    significant = np.maximum(2 * ndtr(-silence.score), surest) <= alpha
    absence = np.where(silence.score > 0, np.where(significant, silence.share, silence.share - 1), -1.0)
    return Ranking.of_metrics(pd.Series(np.fmax(change, absence), index=normal.columns))


def energy_test(
    normal: np.ndarray, abnormal: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Energy distance as a share of its maximum, and permutation p value, per column of two (rows, columns) arrays.

    NaN samples are left out; a column without samples in a window gives NaN. In one dimension the energy distance
    2E|X-Y| - E|X-X'| - E|Y-Y'| equals twice the integral of (F - G)^2, so a permutation needs no distances: only the
    labels of the sorted values.
    """
    n, m = np.count_nonzero(~np.isnan(normal), axis=0), np.count_nonzero(~np.isnan(abnormal), axis=0)
    share, p_value = np.full(len(n), np.nan), np.full(len(n), np.nan)
    for sizes in np.unique(np.stack([n, m], axis=1), axis=0):
        before, after = int(sizes[0]), int(sizes[1])
        if before == 0 or after == 0:
            continue
        columns = np.flatnonzero((n == before) & (m == after))
        pooled = np.concatenate([normal[:, columns], abnormal[:, columns]])
        is_normal = np.arange(len(pooled)) < len(normal)
        order = np.argsort(pooled, axis=0)[: before + after]  # NaN last
        gaps = np.diff(np.take_along_axis(pooled, order, axis=0), axis=0)
        largest = np.nanmax(np.abs(pooled), axis=0)
        gaps[:, gaps.sum(axis=0) <= RESOLUTION * largest] = 0.0
        f, g = _distribution_functions(is_normal[order], before, after)
        distance = 2 * np.sum((f - g) ** 2 * gaps, axis=0)
        between = 2 * np.sum((f * (1 - g) + g * (1 - f)) * gaps, axis=0)
        share[columns] = np.divide(distance, between, out=np.zeros_like(distance), where=between > 0)

        labels = rng.permuted(np.tile(np.arange(before + after) < before, (permutations, 1)), axis=1).T
        f, g = _distribution_functions(labels, before, after)
        permuted = 2 * ((f - g) ** 2).T @ gaps
        as_large = np.count_nonzero(permuted >= distance * (1 - RESOLUTION), axis=0)
        p_value[columns] = (1 + as_large) / (1 + permutations)
    return share, p_value


def _distribution_functions(is_normal: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Empirical distribution functions of both windows after each sorted value but the last, per column."""
    f = np.cumsum(is_normal[:-1], axis=0) / before
    g = np.cumsum(~is_normal[:-1], axis=0) / after
    return f, g
