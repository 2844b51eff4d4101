from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from tasks.rca.features.change_point import HAZARD, Columns, Detection, detect_change, find_changes, prepare
from tests.rca.views import T0

NAN = float("nan")


def detect(values: np.ndarray, metric: str = "latency_p90") -> Detection:
    """Whether and when the columns of (rows, columns) change, the last one being the SLI."""
    index = pd.DatetimeIndex(T0 + pd.to_timedelta(np.arange(len(values)), unit="s"))
    columns = pd.MultiIndex.from_product([[f"s{i}" for i in range(values.shape[1] - 1)], [metric]])
    return detect_change(
        pd.DataFrame(values[:, :-1], index=index, columns=columns), pd.Series(values[:, -1], index=index)
    )


def row_of(detection: Detection) -> int | None:
    return None if detection.time is None else round((detection.time - T0).total_seconds())


def noise(seed: int, rows: int = 90, columns: int = 11, window: int = 1) -> np.ndarray:
    """Standard normal; with ``window``, rates over so many rows."""
    independent = np.random.default_rng(seed).standard_normal((rows + window - 1, columns))
    return np.lib.stride_tricks.sliding_window_view(independent, window, axis=0).sum(axis=-1) / np.sqrt(window)


def log_predictive(run: np.ndarray) -> float:
    """A run's evidence as Adams and MacKay write it: one Student-t prediction after another, prior as in the module."""
    mean, rows, shape, rate, total = 0.0, 0.1, 1.0, 1.0, 0.0
    for value in run:
        total += stats.t.logpdf(value, 2 * shape, mean, np.sqrt(rate * (rows + 1) / (shape * rows)))
        rate += rows * (value - mean) ** 2 / (2 * (rows + 1))
        mean, rows, shape = (rows * mean + value) / (rows + 1), rows + 1, shape + 0.5
    return total


@pytest.mark.parametrize("jump", [0.0, 4.0])
def test_the_posterior_is_that_of_all_chains_of_runs(jump: float) -> None:
    values = noise(1, rows=9, columns=2) + np.where(np.arange(9) < 5, 0.0, jump)[:, None]
    runs = {(a, b): sum(log_predictive(values[a:b, c]) for c in range(2)) for b in range(10) for a in range(b)}
    chains = {}
    for new in itertools.product([False, True], repeat=8):
        bounds = [0, *(i + 1 for i in range(8) if new[i]), 9]
        prior = sum(np.log(HAZARD if begins else 1 - HAZARD) for begins in new)
        chains[tuple(bounds[1:-1])] = prior + sum(runs[run] for run in itertools.pairwise(bounds))
    changes, probability = find_changes(Columns(values, 1.0, 1.0))
    assert probability == pytest.approx(1 - np.exp(chains[()] - logsumexp(list(chains.values()))), rel=1e-9)
    assert tuple(changes) == max(chains, key=lambda chain: chains[chain])


@pytest.mark.parametrize("window", [1, 5])
def test_noise_is_rarely_taken_for_a_change(window: int) -> None:
    alarms = sum(detect(noise(seed, window=window)).time is not None for seed in range(12))
    assert alarms == 0


@pytest.mark.parametrize("window", [1, 5])
def test_the_beginning_of_a_fault_is_found_not_its_end(window: int) -> None:
    errors = []
    for seed in range(6):
        values = noise(seed, window=window)
        values[55:75, :3] += 6
        errors.append(row_of(detect(values)))
    assert errors == pytest.approx([55] * 6, abs=1)


def test_the_clearer_of_two_changes_is_the_fault() -> None:
    values = noise(3)
    values[30:] += 1.2  # drift
    values[60:75, :6] += 9
    changes, _ = find_changes(prepare(values))
    assert changes[0] == pytest.approx(30, abs=3)
    assert row_of(detect(values)) == 60


def test_outliers_are_no_change() -> None:
    values = noise(4)
    values[[20, 40, 41, 66], [0, 1, 2, 3]] += 1000
    values[40, 4:6] += 1000
    assert detect(values).time is None


def test_a_fault_in_few_of_many_columns_is_found() -> None:
    values = noise(5, columns=400)
    values[50:70, [7, 90, 311]] += 8
    assert row_of(detect(values)) == 50


def test_copies_of_a_column_are_no_further_evidence() -> None:
    values = noise(6, columns=1)
    values[60:] += 1.3
    once, often = prepare(values), prepare(np.repeat(values, 10, axis=1))
    assert find_changes(often)[1] == pytest.approx(find_changes(once)[1], abs=0.02)


def test_only_symptoms_are_looked_at_while_any_moves() -> None:
    values = noise(7)
    values[60:] += 6
    assert row_of(detect(values, metric="cpu_usage")) == 60  # the SLI shows it
    values[:, -1] = noise(8)[:, -1]
    assert detect(values, metric="cpu_usage").time is None
    values[:, -1] = NAN
    assert row_of(detect(values, metric="cpu_usage")) == 60


def test_without_metrics_the_sli_alone_tells() -> None:
    values = noise(9, columns=1)
    values[50:70] += 8
    assert row_of(detect(values)) == 50
    sli = pd.Series(values[:, 0], index=pd.DatetimeIndex(T0 + pd.to_timedelta(np.arange(90), unit="s")))
    none = pd.DataFrame(columns=pd.MultiIndex.from_arrays([[], []]), index=sli.index[:0])
    assert row_of(detect_change(none, sli)) == 50


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-9, 1e9), shift=st.floats(-100, 100), order=st.integers(0, 99))
def test_units_zero_points_and_the_order_of_columns_decide_nothing(
    seed: int, scale: float, shift: float, order: int
) -> None:
    values = noise(seed, rows=40, columns=5)
    values[25:, :2] += 4
    other = (values * scale + shift * scale)[:, [*np.random.default_rng(order).permutation(4), 4]]
    assert row_of(detect(other)) == row_of(detect(values))
    assert detect(other).probability == pytest.approx(detect(values).probability, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        np.empty((0, 1)),
        np.full((50, 3), NAN),
        np.full((50, 3), 7.0),
        noise(0, rows=7),
        np.array([[1.0, 2.0]]),
        1 + 1e-15 * noise(0),
    ],
)
def test_nothing_that_moves_means_no_change(values: np.ndarray) -> None:
    assert detect(values) == Detection(None, 0.0)


def test_gaps_constants_and_huge_values_do_not_hide_a_change() -> None:
    values = noise(10)
    values[50:70, :4] += 8
    values[:, 5] = 3.0
    values[10:40:3, :3] = NAN
    values[:12, 1] = NAN
    assert row_of(detect(values * 1e300)) == 50


def test_a_column_that_never_moved_before_counts() -> None:
    values = np.zeros((60, 2))
    values[40:] = [1.0, 5.0]
    assert row_of(detect(values)) == 40


def test_holes_neither_hide_a_change_nor_make_one() -> None:
    """Runs of six rows with holes between, each run with a level of its own moment: only lasting changes count."""
    index = pd.DatetimeIndex(T0 + pd.to_timedelta(60 * (np.arange(90) + np.arange(90) // 6 * 7), unit="s"))
    columns = pd.MultiIndex.from_product([[f"s{i}" for i in range(10)], ["latency_p90"]])
    for seed in range(5):
        values = noise(seed)
        calm = pd.DataFrame(values[:, :-1], index=index, columns=columns)
        assert detect_change(calm, pd.Series(values[:, -1], index=index)).time is None
        values[60:] += 4
        changed = pd.DataFrame(values[:, :-1], index=index, columns=columns)
        assert detect_change(changed, pd.Series(values[:, -1], index=index)).time == index[60]


def test_noise_is_measured_on_neighbouring_rows() -> None:
    """Slowly wandering within a run; the level after each hole has nothing to do with the one before."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(0, 50, 12), 8)[:, None]
    values = level + rng.normal(0, 1, (96, 3))
    holes = np.arange(96) + np.arange(96) // 8 * 20
    torn, whole = prepare(values, holes), prepare(values)
    assert torn.row_weight > whole.row_weight
