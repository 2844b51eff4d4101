"""RCD: the fault as an unknown intervention; root causes are the metrics that no other metric cuts off from it."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import require_windows
from tasks.rca.features.panel import build_panel
from tasks.rca.graph.psi_pc import Order, fault_node_scores
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="rcd",
    family="metric",
    needs={"metrics"},
    seeded=True,
    paper=Paper("Root Cause Analysis of Failures in Microservices through Causal Discovery", "NeurIPS", 2022),
)
def rcd(
    view: CaseView,
    rng: np.random.Generator,
    *,
    bins: int = 5,
    gamma: int = 5,
    alpha: float = 0.01,
    final_alpha: float = 0.001,
    order: Order = "random",
) -> Ranking:
    """Metrics by how hard it is to separate them from the fault: hierarchical, localized psi-PC around an F-node.

    The F-node is 0 before the inject time and 1 from it on. Metrics are cut into ``bins`` bins. Phase 1 deals them at
    random into groups of ``gamma``; in each, a metric that is independent of the F-node given others of its group
    (chi-square) drops out, at the lowest significance level (``alpha``, then 0.1 more each time) that leaves one; the
    rest of all groups are dealt again until ``gamma`` are left or none drops out. Phase 2 tests the survivors with
    each other from ``final_alpha`` up: the lower the level at which one stays attached, the higher it ranks, then the
    smaller its largest p value (the paper's top-k).

    Ranks metrics; a service scores as its worst one. Inputs: metrics, inject time. Score: a whole number of points,
    plus L / (1 + L) with L = -ln of the largest p value. Dropped in round r of phase 1: ``gamma`` (r - 1) points, plus
    the size of the set that separated it. Not attached in phase 2: likewise, as if that were one more round. Attached:
    above these, by level. So metrics that the paper's list leaves out come below its list, in the order in which the
    algorithm let them go; p = 1 is a tie.
    Parameters: ``bins`` 5, ``gamma`` 5, ``alpha`` 0.01, ``final_alpha`` 0.001 (the authors'), ``order`` in which the
    metrics of a group are tested (``random``: drawn anew for each size of set, as in the authors' code;
    ``weakest_first``: what the fault does to an effect passes through its cause, so the effect is the weaker one and is
    the first to be explained; equally strong metrics in random order). Complexity: O(columns x
    rows x 2^gamma). Randomness: the dealing and the order.
    Source: Ikram, Chakraborty, Mitra, Saini, Bagchi, Kocaoglu, NeurIPS 2022. Bins by k-means in one dimension, solved
    exactly (Wang and Song, "Ckmeans.1d.dp", The R Journal 2011) on at most 100 quantile groups of rows per column.
    Deviations: where no metric is linked to the fault at all, all are ranked by how close they came to it (the authors'
    list is empty), which is a tie where none tells anything. A group stops at the first level that leaves at least one
    metric (the authors' code: exactly one, so a group with two clear metrics would go on until it accepts nearly all).
    Metrics that are constant in one of the windows take part. Should phase 1 end with more than ``gamma``, the sets of
    phase 2 have at most ``gamma`` - 1 metrics, and fewer if there were too many of them (``MAX_SAMPLES``).
    """
    require_windows(*view.split())
    panel = build_panel(view)
    scores = fault_node_scores(panel, rng, bins=bins, gamma=gamma, alpha=alpha, final_alpha=final_alpha, order=order)
    return Ranking.of_metrics(panel.scores(scores))
