from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.grid import Misplaced, TimeGrid, on_grid
from tasks.export.sources.matrix import Series

T0_MS = 1_760_000_003_217
STEP_MS = 5000
GRID = TimeGrid(T0_MS, STEP_MS, 12)


def _series(samples: list[tuple[int, float]], labels: dict[str, str] | None = None) -> Series:
    """``samples``: milliseconds after the grid's start, value."""
    times = np.array([(T0_MS + ms) * 1_000_000 for ms, _ in samples], dtype=np.int64)
    return Series(labels or {"pod": "p"}, times, np.array([value for _, value in samples], dtype=float))


def _row(series: list[Series], grid: TimeGrid = GRID) -> list[float | None]:
    """The value at each step of the only series; None where there is no sample."""
    placed = on_grid(series, grid)
    assert len(placed) <= 1
    row: list[float | None] = [None] * grid.steps
    for item in placed:
        assert (np.diff(item.times_ns) > 0).all()
        for time_ns, value in zip(item.times_ns, item.values, strict=True):
            row[int(np.flatnonzero(grid.times_ns == time_ns)[0])] = float(value)
    return row


_SAMPLES = st.lists(
    st.tuples(st.integers(-3 * STEP_MS, 14 * STEP_MS), st.one_of(st.just(math.nan), st.integers(0, 5).map(float))),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(samples=_SAMPLES, seed=st.randoms(use_true_random=False), pieces=st.integers(1, 4))
def test_order_split_and_duplication_do_not_matter(
    samples: list[tuple[int, float]], seed: np.random.Generator, pieces: int
) -> None:
    expected = _row([_series(samples)])
    shuffled = samples + samples[: len(samples) // 2]
    seed.shuffle(shuffled)
    cut = [shuffled[i::pieces] for i in range(pieces)]
    np.testing.assert_array_equal(
        np.array(_row([_series(part) for part in cut]), dtype=float), np.array(expected, dtype=float)
    )
    for step, found in enumerate(expected):
        near = [s for s in samples if -STEP_MS / 2 <= s[0] - step * STEP_MS < STEP_MS / 2]
        assert (found is None) == (not near)
        if near:
            closest = min(abs(ms - step * STEP_MS) for ms, _ in near)
            allowed = [value for ms, value in near if abs(ms - step * STEP_MS) == closest]
            assert any(value == found or (math.isnan(value) and math.isnan(found)) for value in allowed)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", range(-2500, 2500, 499))
def test_a_shifted_answer_fills_every_step_once(shift: int) -> None:
    row = _row([_series([(i * STEP_MS + shift, float(i)) for i in range(-2, 15)])])
    assert row == [float(i) for i in range(12)]


def test_half_a_step_goes_to_the_later_step_of_every_pair() -> None:
    assert _row([_series([(i * STEP_MS - STEP_MS // 2, float(i)) for i in range(12)])]) == [float(i) for i in range(12)]


def test_what_is_before_the_grid_never_lands_at_its_end() -> None:
    misplaced = Misplaced()
    placed = on_grid([_series([(-STEP_MS, 1.0), (-6 * STEP_MS, 2.0), (12 * STEP_MS, 3.0)])], GRID, misplaced)
    assert placed == []
    assert (misplaced.outside, misplaced.off_ms) == (1, 0)


def test_nearest_then_later_then_largest_number() -> None:
    assert _row([_series([(5100, 1.0), (4999, 2.0), (7000, 9.0)])])[1] == 2.0
    assert _row([_series([(5100, 1.0), (4900, 2.0)])])[1] == 1.0
    assert _row([_series([(5000, math.nan), (5000, 1.0), (5000, 4.0)])])[1] == 4.0
    assert math.isnan(_row([_series([(5000, math.nan)])])[1])  # type: ignore[arg-type]


def test_what_fits_is_passed_on_untouched() -> None:
    fits = [_series([(0, 1.0), (5000, 2.0)]), _series([(10_000, 1.0)], {"pod": "q"})]
    placed = on_grid(fits, GRID)
    assert [a is b for a, b in zip(placed, fits, strict=True)] == [True, True]
    assert on_grid([_series([])], GRID) == []


@settings(deadline=None)
@given(step=st.sampled_from([0.5, 1.0, 2.5, 0.7, 5, 30]), length=st.floats(0, 1000), first=st.floats(0, 2e9))
def test_the_grid_of_an_export_is_multiples_of_the_step(step: float, length: float, first: float) -> None:
    start = datetime.fromtimestamp(first, UTC)
    end = start + timedelta(seconds=length)
    grid, plain = TimeGrid.aligned(start, end, step), TimeGrid.between(start, end, step)
    if grid != plain:
        assert grid.start_ms % grid.step_ms == 0
        assert plain.start_ms <= grid.start_ms < plain.start_ms + plain.step_ms
    assert grid.end_ms <= end.timestamp() * 1000 + 0.01
    assert grid.steps >= max(1, plain.steps - 1)
