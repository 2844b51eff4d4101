import warnings

import numpy as np
import pytest
from scipy import stats

from tasks.rca.features.panel import standardise
from tasks.rca.graph.granger import granger_p_values, learn_granger
from tasks.rca.method import MethodError


def series(rows: int, columns: int, seed: int) -> np.ndarray:
    """Autocorrelated columns, unrelated to each other."""
    rng = np.random.default_rng(seed)
    values = np.zeros((rows, columns))
    for t in range(1, rows):
        values[t] = 0.5 * values[t - 1] + rng.standard_normal(columns)
    return standardise(values)[0]


def planted(rows: int, seed: int) -> np.ndarray:
    """0 -> 1 after one step, 1 -> 2 after three, 3 alone."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, 4))
    values[1:, 1] += 0.8 * values[:-1, 0]
    values[3:, 2] += 0.8 * values[:-3, 1]
    return standardise(values)[0]


@pytest.mark.parametrize("max_lag", [1, 2, 3])
def test_same_p_values_as_statsmodels(max_lag: int) -> None:
    stattools = pytest.importorskip("statsmodels.tsa.stattools")
    values = np.hstack([planted(60, seed=1), series(60, 2, seed=2)])
    p_values = granger_p_values(values, max_lag=max_lag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cause, effect in [(0, 1), (1, 0), (1, 2), (4, 5), (3, 5), (2, 0)]:
            tests = stattools.grangercausalitytests(values[:, [effect, cause]], maxlag=[max_lag])
            assert p_values[cause, effect] == pytest.approx(tests[max_lag][0]["ssr_ftest"][1], rel=1e-7)


def test_planted_causes_are_found() -> None:
    graph = learn_granger(planted(500, seed=3), alpha=1e-6)
    assert {tuple(edge) for edge in np.argwhere(graph.directed)} == {(0, 1), (1, 2)}


def test_unrelated_columns_are_linked_at_the_rate_of_the_level() -> None:
    """Avoided defect: a mean of four p values, below .05 at any of three lags, has no known error rate."""
    values = series(300, 60, seed=4)
    linked = learn_granger(values).directed.sum() / (60 * 59)
    assert linked == pytest.approx(0.05, abs=0.012)


def test_the_unit_of_work_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = series(40, 9, seed=5)
    whole = granger_p_values(values, max_lag=3)
    monkeypatch.setattr("tasks.rca.graph.granger._PAIRS_PER_CHUNK", 20)
    np.testing.assert_allclose(granger_p_values(values, max_lag=3), whole, rtol=1e-9)


def test_constant_collinear_and_repeated_columns_have_no_nan() -> None:
    """Avoided defect: statsmodels stops the whole method at the first pair it cannot test."""
    values = series(40, 3, seed=6)
    step = np.r_[np.zeros(39), 1.0]
    spike_first = np.r_[1.0, np.zeros(39)]
    alternating = np.tile([1.0, -1.0], 20)
    odd = np.column_stack([values, values[:, 0], np.zeros(40), step, spike_first, alternating, np.arange(40.0)])
    p_values = granger_p_values(standardise(odd)[0], max_lag=3)
    assert np.all((p_values >= 0) & (p_values <= 1))
    assert p_values[0, 3] == 1, "a copy knows nothing new"
    assert np.all(p_values[4] == 1), "a constant says nothing"
    assert np.all(p_values[:, [4, 7, 8]] == 1), "what its own past predicts has no cause"


def test_a_perfect_prediction_is_significant() -> None:
    rng = np.random.default_rng(7)
    cause = rng.standard_normal(50)
    p_values = granger_p_values(standardise(np.column_stack([cause, np.roll(cause, 2)])[2:])[0], max_lag=3)
    assert p_values[0, 1] < 1e-100


def test_too_few_rows() -> None:
    granger_p_values(series(11, 3, seed=8), max_lag=3)
    with pytest.raises(MethodError, match="10 metric rows; Granger causality with 3 lags needs at least 11"):
        learn_granger(series(10, 3, seed=8))


@pytest.mark.parametrize("cut", [150, 77])
def test_no_row_looks_back_across_a_hole(cut: int) -> None:
    """The F test over both sides of the hole, each with its own past only."""
    values = planted(300, seed=9)
    found = granger_p_values(values, max_lag=3, ticks=np.arange(300) + np.where(np.arange(300) >= cut, 40, 0))
    sides = [np.stack([side[3 - lag : len(side) - lag] for lag in range(4)]) for side in (values[:cut], values[cut:])]
    now, *past = np.concatenate(sides, axis=1)
    restricted = np.column_stack([np.ones(len(now)), *[lag[:, 2] for lag in past]])
    full = np.column_stack([restricted, *[lag[:, 3] for lag in past]])
    unexplained = [np.linalg.lstsq(design, now[:, 2], rcond=None)[1][0] for design in (restricted, full)]
    freedom = len(now) - 7
    statistic = (unexplained[0] - unexplained[1]) / 3 / (unexplained[1] / freedom)
    assert found[3, 2] == pytest.approx(stats.f.sf(statistic, 3, freedom), rel=1e-6)
    assert found[3, 2] != pytest.approx(granger_p_values(values, max_lag=3)[3, 2], rel=1e-3)


def test_a_cause_that_leads_only_across_the_hole_is_none() -> None:
    """Sides of four rows: by position the last row of one side 'predicts' the first of the next without error."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal((200, 2))
    values[4::4, 1] = 9 * values[3:-1:4, 0]
    ticks = np.arange(200) + np.arange(200) // 4 * 9
    values = standardise(values)[0]
    assert granger_p_values(values, max_lag=1)[0, 1] < 1e-6
    assert granger_p_values(values, max_lag=1, ticks=ticks)[0, 1] > 1e-3


def test_too_few_rows_between_holes() -> None:
    ticks = np.arange(28) + np.arange(28) // 4 * 9
    with pytest.raises(MethodError, match=r"7 of 28 metric rows have 3 steps before them without a hole; .* least 8"):
        granger_p_values(series(28, 3, seed=8), max_lag=3, ticks=ticks)
