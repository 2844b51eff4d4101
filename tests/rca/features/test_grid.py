"""The rows of a view: one per usual step, whatever the jitter, the holes, and the steps of the other metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rca.features.rows import row_of, step_of, ticks_of, usual_gap, with_past
from tasks.rca.run.build_view import widen
from tests.rca.views import T0

SECOND = 1_000_000_000


def at(*seconds: float) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(T0 + pd.to_timedelta(np.asarray(seconds, dtype=float), unit="s")).as_unit("ns")


def samples(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Long metrics; the value of a sample is its second."""
    return pd.concat(
        [
            pd.DataFrame({"time": at(*seconds), "service": "a", "metric": name, "value": seconds})
            for name, seconds in columns.items()
        ],
        ignore_index=True,
    )


def with_holes(step: float, normal: list[int], fault: int, hole: float) -> np.ndarray:
    """Runs of so many samples with holes between them; the last ``fault`` samples come after the last hole."""
    seconds, begin = [], 0.0
    for count in [*normal, fault]:
        seconds += [begin + step * i for i in range(count)]
        begin = seconds[-1] + hole
    return np.array(seconds)


@pytest.mark.parametrize("step", [1, 15, 60, 300])
@pytest.mark.parametrize("normal", [[1, 1, 2, 1, 1, 1], [5], [2, 1, 1, 3, 1, 1, 1, 2], [40, 1, 1]])
@pytest.mark.parametrize("holes", [2, 8, 31.4, 1000])
def test_rows_beside_holes_stay_rows(step: float, normal: list[int], holes: float) -> None:
    seconds = with_holes(step, normal, 3, holes * step)
    inject = T0 + pd.Timedelta(seconds=seconds[-3] - step / 3)
    wide, found = widen(samples({"m": seconds, "n": seconds}), inject)
    assert found == step * SECOND
    assert len(wide) == len(seconds)
    assert (wide.index >= inject).sum() == 3
    np.testing.assert_allclose(wide[("a", "m")], seconds)
    ticks = ticks_of(wide.index, found)
    np.testing.assert_array_equal(np.diff(ticks) == 1, np.isclose(np.diff(seconds), step))
    assert step_of(wide.index) == found


@given(
    step=st.sampled_from([2.0, 15.0, 60.0]),
    jitter=st.floats(0.001, 0.2),
    phases=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    inject=st.floats(10, 40),
    hole=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_jittered_scrapes_make_one_row_per_step(
    step: float, jitter: float, phases: list[float], inject: float, hole: int, seed: int
) -> None:
    """Each metric is scraped at its own moment of the step, early or late by up to ``jitter`` steps."""
    rng = np.random.default_rng(seed)
    ticks = np.concatenate([np.arange(25), np.arange(25 + hole, 50 + hole)])
    columns = {
        f"m{i}": step * (ticks + phase + rng.uniform(-jitter, jitter, len(ticks))) for i, phase in enumerate(phases)
    }
    boundary = T0 + pd.Timedelta(seconds=step * inject)
    wide, found = widen(samples(columns), boundary)
    assert found == pytest.approx(step * SECOND, rel=0.02)
    values = wide.to_numpy()
    assert (values[wide.index < boundary] < step * inject + 1e-6)[~np.isnan(values[wide.index < boundary])].all()
    assert (values[wide.index >= boundary] >= step * inject - 1e-6)[~np.isnan(values[wide.index >= boundary])].all()
    for name, seconds in columns.items():  # no two samples of a metric in one row, in the same order, once each
        np.testing.assert_allclose(wide[("a", name)].dropna(), seconds)
    one_moment = np.ptp(phases) + 2 * jitter < 0.5
    if one_moment:
        assert len(ticks) <= len(wide) <= len(ticks) + 1
        assert np.count_nonzero(np.diff(ticks_of(wide.index, found)) > 1) == (hole > 0)


def test_a_slightly_wrong_step_does_not_drift_away() -> None:
    rng = np.random.default_rng(0)
    seconds = 15.37 * np.arange(4000) + rng.uniform(-4, 4, 4000)
    wide, found = widen(samples({"m": seconds}), T0 + pd.Timedelta(seconds=30_000.1))
    assert found == pytest.approx(15.37 * SECOND, rel=1e-5)
    assert len(wide) in (4000, 4001)


@pytest.mark.parametrize("offset", [0.0, 7.0])
def test_metrics_of_different_steps_share_the_finer_grid(offset: float) -> None:
    fine, coarse = 15.0 * np.arange(40), 60.0 * np.arange(10) + offset
    wide, found = widen(samples({"fine": fine, "slow": coarse, "slow2": coarse}), T0 + pd.Timedelta("311s"))
    assert found == 15 * SECOND
    assert len(wide) == 40
    np.testing.assert_allclose(wide[("a", "fine")], fine)
    assert wide[("a", "slow")].count() == 10


def test_a_few_finer_samples_do_not_tear_the_rows_apart() -> None:
    """One metric of forty at 1 s among those at 60 s: its samples of a minute are averaged."""
    minutes = {f"m{i}": 60.0 * np.arange(30) for i in range(1500)}
    wide, found = widen(samples(minutes | {"fast": np.arange(1800.0)}), T0 + pd.Timedelta("900s"))
    assert found == 60 * SECOND
    assert 30 <= len(wide) <= 32
    assert wide[("a", "m0")].count() == 30


def test_duplicate_times_are_one_sample() -> None:
    seconds = np.repeat([0.0, 10, 20, 500, 510, 520], 3)
    wide, found = widen(samples({"m": seconds}), T0 + pd.Timedelta("495s"))
    assert (found, len(wide)) == (10 * SECOND, 6)


def test_scrapes_on_both_sides_of_the_inject_time_are_two_rows() -> None:
    early, late = 10 * np.arange(6) - 0.4, 10 * np.arange(6) + 0.4
    wide = widen(samples({"early": early, "late": late}), T0 + pd.Timedelta("30s"))[0]
    assert len(wide) == 7
    assert wide[("a", "early")].notna().tolist() == [True] * 4 + [False] + [True] * 2
    assert wide[("a", "late")].notna().tolist() == [True] * 3 + [False] + [True] * 3
    assert ticks_of(wide.index, 10 * SECOND).tolist() == list(range(7))


def test_usual_gap() -> None:
    assert usual_gap(np.array([480, 480, 60, 480, 480, 480, 480])) == 60
    assert usual_gap(np.array([0, 0, 5, 0])) == 5
    assert usual_gap(np.array([14, 15, 16, 15, 30, 15])) == 15
    assert usual_gap(np.array([0, 0])) == 0
    assert usual_gap(np.array([], dtype=int)) == 0


def test_rows_with_their_past() -> None:
    ticks = np.array([0, 1, 2, 3, 7, 8, 9, 20])
    assert with_past(ticks, 0).tolist() == list(range(8))
    assert with_past(ticks, 1).tolist() == [1, 2, 3, 5, 6]
    assert with_past(ticks, 2).tolist() == [2, 3, 6]
    assert with_past(ticks, 3).tolist() == [3]
    assert with_past(ticks, 8).tolist() == []


def test_what_happens_in_a_hole_is_on_no_row() -> None:
    index = at(0, 60, 120, 600, 660)
    times = at(-61, -59, 0, 30, 61, 120, 121, 539, 541, 600, 601, 661).asi8
    assert row_of(index, times).tolist() == [-1, 0, 0, 1, 2, 2, -1, -1, 3, 3, 4, -1]
