"""All tables of the score stage from the scored pairs of a campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tasks.params import ScoreParams
from tasks.score.set_tables import case_table, kind_table, negative_table, set_pairs, set_score_table, set_table
from tasks.score.tables import (
    Scored,
    average_rank_table,
    comparison_table,
    coverage_table,
    evidence_table,
    finding_table,
    metric_ranking_table,
    misattribution_table,
    ranking_table,
    score_table,
)
from tasks.score.traits import CaseTraits
from tasks.score.truth import Truth


def score_tables(
    pairs: Sequence[Scored],
    truths: Sequence[Truth],
    traits: Mapping[str, CaseTraits],
    detections: pd.DataFrame,
    params: ScoreParams,
) -> dict[str, pd.DataFrame]:
    """Return the tables of ``tasks.score.files`` by name. ``pairs``: ``in_order``; ``traits``: by case."""
    comparisons = comparison_table(pairs, params)
    sets = set_pairs(pairs)
    return {
        "rankings": ranking_table(pairs),
        "metric_rankings": metric_ranking_table(pairs),
        "scores": score_table(pairs, params),
        "misattribution": misattribution_table(pairs),
        "comparisons": comparisons,
        "average_ranks": average_rank_table(pairs, comparisons),
        "detections": detections,
        "findings": finding_table(pairs),
        "evidence": evidence_table(pairs),
        "coverage": coverage_table(pairs),
        "cases": case_table(truths, traits),
        "sets": set_table(sets),
        "set_scores": set_score_table(sets, params),
        "kinds": kind_table(sets),
        "negatives": negative_table(pairs, params),
    }
