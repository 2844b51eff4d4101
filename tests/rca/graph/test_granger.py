import warnings

import numpy as np
import pytest

from tasks.rca.graph.granger import granger_p_values, learn_granger
from tasks.rca.method import MethodError
from tasks.rca.panel import standardise


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
