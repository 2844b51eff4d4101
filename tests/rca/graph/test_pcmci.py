from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, pearsonr

from tasks.rca.graph import pcmci as module
from tasks.rca.graph.partial_correlation import partial_correlations
from tasks.rca.graph.pcmci import LaggedColumns, correlations_given, learn_pcmci, pcmci_p_values
from tasks.rca.method import MethodError


def process(rows: int, seed: int = 0) -> np.ndarray:
    """0 leads 1 by one step, 1 leads 2 by two; 3 and 4 share noise within a step; all remember themselves."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(rows, 5))
    noise[:, 4] += noise[:, 3]
    x = np.zeros((rows, 5))
    for t in range(2, rows):
        x[t] = 0.5 * x[t - 1] + noise[t]
        x[t, 1] += 0.7 * x[t - 1, 0]
        x[t, 2] += 0.7 * x[t - 2, 1]
    return x


def test_links_of_a_planted_process() -> None:
    graph = learn_pcmci(process(500), max_lag=3, alpha=0.001)
    assert set(zip(*np.nonzero(graph.directed), strict=True)) == {(0, 1), (1, 2)}
    assert set(zip(*np.nonzero(graph.undirected), strict=True)) == {(3, 4), (4, 3)}
    without = learn_pcmci(process(500), max_lag=3, alpha=0.001, same_step=False)
    assert not without.undirected.any()


def test_the_lag_is_found() -> None:
    p_value = pcmci_p_values(process(500), max_lag=3, condition_alpha=0.1)
    assert p_value[1, 0, 1] < 1e-6 < 0.001 < p_value[[0, 2, 3], 0, 1].min()
    assert p_value[2, 1, 2] < 1e-6 < 0.001 < p_value[[0, 1, 3], 1, 2].min()
    np.testing.assert_array_equal(p_value[0], p_value[0].T)
    np.testing.assert_array_equal(p_value[0].diagonal(), 1)


def brute_force(values: np.ndarray, max_lag: int, alpha: float) -> np.ndarray:
    """PCMCI one test at a time, on residuals."""
    rows, columns = values.shape
    start = 2 * max_lag

    def series(column: int, lag: int) -> np.ndarray:
        return values[start - lag : rows - lag, column]

    def test(x: tuple[int, int], y: tuple[int, int], given: list[tuple[int, int]]) -> tuple[float, float]:
        design = np.column_stack([np.ones(rows - start), *(series(*z) for z in given)])
        left = [series(*v) - design @ np.linalg.lstsq(design, series(*v), rcond=None)[0] for v in (x, y)]
        r = float(np.corrcoef(*left)[0, 1])
        half = (rows - start - 2 - len(given)) / 2
        return abs(r), float(2 * beta.sf((abs(r) + 1) / 2, half, half))  # distribution of a sample correlation

    parents = []
    for target in range(columns):
        strength = {(c, lag): np.inf for lag in range(1, max_lag + 1) for c in range(columns)}
        size = 0
        while len(strength) > size:
            ordered = sorted(strength, key=lambda c: -strength[c])
            failed = []
            for candidate in ordered:
                given = [other for other in ordered if other != candidate][:size]
                r, p = test(candidate, (target, 0), given)
                strength[candidate] = min(strength[candidate], r)
                failed += [candidate] if p > alpha else []
            for candidate in failed:
                del strength[candidate]
            size += 1
        parents.append(sorted(strength, key=lambda c: -strength[c]))

    p_value = np.ones((max_lag + 1, columns, columns))
    for lag in range(max_lag + 1):
        for i in range(columns):
            for j in range(columns):
                if lag or i != j:
                    given = {*parents[j], *((c, of + lag) for c, of in parents[i])} - {(i, lag)}
                    p_value[lag, i, j] = test((i, lag), (j, 0), sorted(given))[1]
    return p_value


@pytest.mark.parametrize("seed", range(3))
def test_equals_one_test_at_a_time(seed: int) -> None:
    values = process(60, seed)
    np.testing.assert_allclose(
        pcmci_p_values(values, max_lag=2, condition_alpha=0.2), brute_force(values, 2, 0.2), atol=1e-9
    )


def test_memory_alone_makes_no_links() -> None:
    """Two unrelated columns with memory correlate by chance; given their pasts they do not."""
    random = np.random.default_rng(3)
    x = np.zeros((300, 20))
    for t in range(1, 300):
        x[t] = 0.9 * x[t - 1] + random.normal(size=20)
    p_value = pcmci_p_values(x, max_lag=2, condition_alpha=0.1)
    pairs = ~np.eye(20, dtype=bool)
    plain = np.array([[pearsonr(x[:, i], x[:, j]).pvalue for j in range(20)] for i in range(20)])
    assert np.mean(plain[pairs] < 0.05) > 0.3
    assert np.mean(p_value[:, pairs] < 0.05) == pytest.approx(0.05, abs=0.02)


def test_units_say_nothing() -> None:
    values = process(80)
    scaled = values * 2.0 ** np.array([-20, 3, 0, 11, 30]) * [1, -1, 1, -1, 1]
    np.testing.assert_allclose(
        pcmci_p_values(scaled, max_lag=2, condition_alpha=0.1),
        pcmci_p_values(values, max_lag=2, condition_alpha=0.1),
        atol=1e-9,
    )


def test_constants_and_copies_give_p_values() -> None:
    values = np.column_stack([process(60), np.ones(60), np.arange(60.0)])
    values = np.column_stack([values, values[:, 0]])
    p_value = pcmci_p_values(values, max_lag=3, condition_alpha=0.1)
    assert np.isfinite(p_value).all()
    assert (p_value[:, 5] == 1).all()


def test_parents_are_the_strongest_first() -> None:
    lagged = LaggedColumns.of(process(400), 2)
    parents = lagged.parents(0.01)
    assert parents[2, 0] in (2 * 5 + 1, 1 * 5 + 2)
    assert set(parents[2]) - {-1} >= {2 * 5 + 1, 1 * 5 + 2}


def test_conditioning_sets_of_different_sizes() -> None:
    correlation = np.corrcoef(process(200).T)
    i, j = np.array([0, 0, 0]), np.array([1, 1, 1])
    given = np.array([[-1, -1, -1], [3, -1, 3], [2, 4, -1]])
    found, size = correlations_given(correlation, i, j, given)
    assert size.tolist() == [0, 1, 2]
    expected = [
        partial_correlations(correlation, i[:1], j[:1], np.array([chosen], dtype=int).reshape(1, -1))[0]
        for chosen in ([], [3], [2, 4])
    ]
    np.testing.assert_allclose(found, expected)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MethodError, match="13 metric rows; PCMCI with lags of up to 5 steps needs at least 14"):
        learn_pcmci(process(13), max_lag=5)
    learn_pcmci(process(14), max_lag=5)
    monkeypatch.setattr(module, "MAX_LAGGED_COLUMNS", 44)
    with pytest.raises(MethodError, match="5 columns; with lags of up to 5 steps this method stops at 4"):
        learn_pcmci(process(100), max_lag=5)
    monkeypatch.setattr(module, "MAX_OPERATIONS", 100)
    with pytest.raises(MethodError, match=r"5 columns with \d+ lagged parents each need .* stops at 100"):
        learn_pcmci(process(100), max_lag=2)


def test_no_row_looks_back_across_a_hole() -> None:
    """Every correlation is that of the pairs of rows without a hole between them."""
    values, cut = process(400), 170
    lagged = LaggedColumns.of(values, 2, np.arange(400) + np.where(np.arange(400) >= cut, 31, 0))
    sides = [np.hstack([side[4 - lag : len(side) - lag] for lag in range(5)]) for side in (values[:cut], values[cut:])]
    assert lagged.rows == 400 - 8
    np.testing.assert_allclose(lagged.correlation, np.corrcoef(np.vstack(sides), rowvar=False), atol=1e-12)


def test_a_link_that_only_crosses_holes_is_none() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((400, 2))
    values[8::8, 1] = 9 * values[7:-1:8, 0]
    ticks = np.arange(400) + np.arange(400) // 8 * 9
    assert pcmci_p_values(values, max_lag=1, condition_alpha=0.1)[1, 0, 1] < 1e-6
    assert pcmci_p_values(values, max_lag=1, condition_alpha=0.1, ticks=ticks)[1, 0, 1] > 1e-3


def test_too_few_rows_between_holes() -> None:
    ticks = np.arange(40) + np.arange(40) // 4 * 9
    with pytest.raises(MethodError, match="0 of 40 metric rows have 4 steps before them without a hole"):
        learn_pcmci(process(40), max_lag=2, ticks=ticks)
