from __future__ import annotations

import numpy as np
import pytest

from tasks.score.bootstrap import bootstrap_interval, stratified_interval


def interval(
    values: np.ndarray, seed: int = 0, samples: int = 4000, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    return bootstrap_interval(values, samples=samples, confidence=confidence, seed=seed, label="x")


def test_agrees_with_the_binomial_distribution() -> None:
    """The mean of 40 resampled 0/1 values, half of them 1, is binomial: 2.5 % and 97.5 % points 14 and 26 of 40."""
    values = np.array([[0.0], [1.0]] * 20)
    low, high = interval(values)
    assert (low[0], high[0]) == (pytest.approx(14 / 40, abs=0.026), pytest.approx(26 / 40, abs=0.026))


def test_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(300):
        low, high = interval(rng.normal(size=(40, 1)), seed=seed, samples=500, confidence=0.9)
        covered.append(low[0] <= 0 <= high[0])
    assert 0.82 < np.mean(covered) < 0.95


def test_equal_cases_leave_no_doubt_and_one_case_leaves_all() -> None:
    low, high = interval(np.full((7, 2), 0.6))
    np.testing.assert_allclose([low, high], 0.6)
    low, high = interval(np.array([[0.6]]))
    assert np.isnan([low, high]).all()


def test_depends_on_seed_and_label_only() -> None:
    values = np.random.default_rng(0).random((30, 3))
    np.testing.assert_array_equal(interval(values), interval(values))
    assert not np.array_equal(interval(values), interval(values, seed=1))
    np.testing.assert_allclose(np.array(interval(values))[:, 1], np.array(interval(values[:, [1]]))[:, 0])


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((30, 2))
    whole = interval(values)
    monkeypatch.setattr("tasks.score.bootstrap._CHUNK", 100)
    np.testing.assert_allclose(whole, interval(values))


def test_strata_weigh_the_same_and_keep_their_cases() -> None:
    """30 easy cases, all right, and 10 hard ones, half right: the mean is .75, and only the hard ones vary."""
    hard = np.array([[0.0], [1.0]] * 5)
    how = {"samples": 4000, "confidence": 0.95, "seed": 0, "label": "x"}
    low, high = stratified_interval([np.ones((30, 1)), hard], **how)  # type: ignore[arg-type]
    alone = interval(hard)
    assert (low[0], high[0]) == pytest.approx(((1 + alone[0][0]) / 2, (1 + alone[1][0]) / 2), abs=0.051)


def test_a_stratum_of_one_case_has_no_spread() -> None:
    how = {"samples": 10, "confidence": 0.95, "seed": 0, "label": "x"}
    low, high = stratified_interval([np.ones((30, 2)), np.ones((1, 2))], **how)  # type: ignore[arg-type]
    assert np.isnan([*low, *high]).all()
