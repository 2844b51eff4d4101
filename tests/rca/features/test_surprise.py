from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.surprise import sample_scores, surprise_scores
from tests.rca.views import view_of


def test_the_score_counts_who_lies_as_far_from_the_median() -> None:
    """Normal 1 … 5: median 3, distances 2, 1, 0, 1, 2. All are as far as 3, two as far as 1, none as far as 9."""
    scores = sample_scores(np.array([1.0, 2, 3, 4, 5]), np.array([3.0, 5, 9, 2]))
    assert scores == pytest.approx(-np.log([6 / 6, 3 / 6, 1 / 6, 5 / 6]))


def test_an_outlier_of_a_score_is_as_rare_as_the_score_says() -> None:
    """P(score >= s) <= exp(-s) without a fault, whatever the distribution: what makes scores comparable."""
    rng = np.random.default_rng(0)
    for draw in (rng.standard_normal, rng.standard_cauchy, rng.standard_exponential):
        scores = sample_scores(draw(2000), draw(20_000))
        for s in (0.5, 1.0, 3.0, 5.0):
            assert np.mean(scores >= s) <= np.exp(-s) + 0.02


def test_units_shifts_and_constants() -> None:
    normal, samples = np.array([1.0, 2, 3, 4, 5]), np.array([3.0, 5, 9])
    assert sample_scores(1e-7 * normal - 4e-7, 1e-7 * samples - 4e-7) == pytest.approx(sample_scores(normal, samples))
    assert sample_scores(np.full(3, 0.1), np.array([0.1, 0.2])) == pytest.approx([0, np.log(4)])


def test_a_metric_scores_the_mean_of_its_samples() -> None:
    view = view_of({("a", "x"): [1, 2, 3, 4, 5, 9, 3, np.nan], ("b", "x"): [np.nan] * 8}, normal_rows=5)
    scores = surprise_scores(view)
    assert scores["a", "x"] == pytest.approx(np.log(6) / 2)
    assert pd.isna(scores["b", "x"])


def test_silence_is_as_surprising_as_can_be() -> None:
    """9 samples before, none after; and none before, 9 after. The others go on, so it is about these two."""
    steady = [1.0, 2, 1, 2, 1, 2, 1, 2, 1] * 2
    columns = {(name, "x"): list(steady) for name in "abcde"}
    columns["a", "x"][9:] = [np.nan] * 9
    columns["b", "x"][:9] = [np.nan] * 9
    scores = surprise_scores(view_of(columns, normal_rows=9))
    assert scores["a", "x"] == scores["b", "x"] == pytest.approx(np.log(10))
    assert scores["c", "x"] < 0.6
