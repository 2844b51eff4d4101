"""How surprising each metric is after the fault: the information-theoretic outlier score.

The score of a sample is -ln of the probability to lie at least as far from the median as it does. So metrics of any
unit, spread and shape compare: a score of s or more has a probability of at most exp(-s) without a fault. The
probability is counted among n normal samples, the sample itself included, so that it is never 0: (1 + as far) /
(1 + n). Hence no score exceeds ln(1 + n), and short windows tell little about how far beyond the normal a sample lies.

Source: Budhathoki, Minorics, Blöbaum, Janzing, "Causal structure-based root cause analysis of outliers", ICML 2022.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import RESOLUTION, require_windows
from tasks.rca.features.silence import SIGNIFICANT, find_silence
from tasks.rca.view import CaseView


def surprise_scores(view: CaseView) -> pd.Series:
    """Return the mean score of the samples after the inject time, by (service, metric) column; NaN without any.

    Samples that stop at the fault (:mod:`tasks.rca.features.silence`, beyond doubt) score as far as can be, ln(1 + n);
    so do those of a metric that begins with it, n being the rows before. O(columns x rows log rows).

    Raises:
        MethodError: a window has no sample at all.
    """
    require_windows(*view.split())
    values = view.metrics.to_numpy(dtype=float)
    after = np.asarray(view.metrics.index >= view.inject_time)
    silence = find_silence(view.metrics, after)
    scores = np.full(values.shape[1], np.nan)
    for column in range(values.shape[1]):
        normal, abnormal = (part[np.isfinite(part)] for part in (values[~after, column], values[after, column]))
        if len(normal):
            found = sample_scores(normal, abnormal)
            gone = int(np.count_nonzero(silence.cells[after, column])) if silence.stopped[column] >= SIGNIFICANT else 0
            if len(found) or gone:
                scores[column] = (found.sum() + gone * np.log1p(len(normal))) / (len(found) + gone)
        if silence.began[column] >= SIGNIFICANT:
            scores[column] = np.log1p(np.count_nonzero(~after))
    return pd.Series(scores, index=view.metrics.columns)


def sample_scores(normal: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the score of each of ``samples`` (samples,) among ``normal`` (at least one value)."""
    middle = np.median(normal)
    resolution = RESOLUTION * np.max(np.abs(normal))
    distances = np.sort(np.abs(normal - middle))
    nearer = np.searchsorted(distances, np.abs(samples - middle) - resolution, side="left")
    scores: np.ndarray = -np.log((1 + len(normal) - nearer) / (1 + len(normal)))
    return scores
