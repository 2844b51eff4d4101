"""Score Ordering: the most surprising metric is the root cause."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.surprise import surprise_scores
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="score_ordering",
    family="metric",
    needs={"metrics"},
    paper=Paper("Root Cause Analysis of Outliers with Missing Structural Knowledge", "NeurIPS", 2025),
    beyond=True,
)
def score_ordering(view: CaseView, rng: np.random.Generator) -> Ranking:
    """Metrics by how improbable it is to lie as far from the normal median as they do after the fault.

    Without a graph: the score is -ln of that probability, estimated from the normal window
    (:mod:`tasks.rca.features.surprise`). In a polytree of causes an outlier rarely causes a more surprising one, so the
    root is likely on top. Ranks metrics; a service scores as its most surprising one. Inputs: metrics, inject time.
    Parameters: none. Complexity: O(columns x rows log rows). Randomness: none. Source: Orchard, Okati, Garrido Mejia,
    Blöbaum, Janzing, NeurIPS 2025 (arXiv 2406.05014), algorithm "Score Ordering".
    Deviations: the paper scores one anomalous sample; here a metric scores the mean over the samples after the inject
    time, so that one chance outlier among many does not count as much as a lasting one. As in the paper the score is
    bounded by the number of normal samples: with short windows many metrics reach the bound and tie. Metrics that stop
    or begin at the fault reach it, too.
    """
    return Ranking.of_metrics(surprise_scores(view))
