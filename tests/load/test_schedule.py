from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.load.schedule import Schedule, draw_schedule, draw_token_counts
from tasks.params import LoadParams, TokenCount

POOL = 1000

distributions = st.sampled_from(["constant", "normal", "lognormal", "uniform"])
arrivals = st.sampled_from(["constant", "poisson"])


@st.composite
def token_counts(draw: st.DrawFn) -> TokenCount:
    low = draw(st.integers(1, 50))
    high = draw(st.integers(low, 200))
    return TokenCount(
        distribution=draw(distributions),
        mean=draw(st.floats(low, high)),
        stdev=draw(st.floats(0, 100)),
        min=low,
        max=high,
    )


@st.composite
def load_params(draw: st.DrawFn) -> LoadParams:
    return LoadParams(
        arrival=draw(arrivals),
        rate=draw(st.floats(0.1, 300)),
        prompt_tokens=draw(token_counts()),
        output_tokens=draw(token_counts()),
    )


def columns(schedule: Schedule) -> list[np.ndarray]:
    return [getattr(schedule, field.name) for field in dataclasses.fields(schedule)]


@settings(deadline=None)
@given(params=load_params(), duration_s=st.floats(0.1, 20), seed=st.integers(0, 2**32 - 1))
def test_schedule_is_a_pure_function_within_its_bounds(params: LoadParams, duration_s: float, seed: int) -> None:
    schedule = draw_schedule(params, duration_s, seed, POOL)
    again = draw_schedule(params, duration_s, seed, POOL)
    assert all(np.array_equal(one, other) for one, other in zip(columns(schedule), columns(again), strict=True))
    assert len({len(column) for column in columns(schedule)}) == 1
    assert (np.diff(schedule.offset_ns) >= 0).all()
    assert ((schedule.offset_ns >= 0) & (schedule.offset_ns < duration_s * 1e9)).all()
    for wanted, drawn in (
        (params.prompt_tokens, schedule.prompt_tokens),
        (params.output_tokens, schedule.output_tokens),
    ):
        assert ((drawn >= wanted.min) & (drawn <= wanted.max)).all()
    assert ((schedule.prompt_start >= 0) & (schedule.prompt_start < POOL)).all()


@settings(deadline=None)
@given(params=load_params(), seed=st.integers(0, 1000), short_s=st.floats(0.1, 5), more_s=st.floats(0.1, 5))
def test_a_longer_run_begins_with_the_shorter_one(params: LoadParams, seed: int, short_s: float, more_s: float) -> None:
    short = draw_schedule(params, short_s, seed, POOL)
    long = draw_schedule(params, short_s + more_s, seed, POOL)
    for one, other in zip(columns(short), columns(long), strict=True):
        assert np.array_equal(one, other[: len(one)])


@settings(deadline=None)
@given(rate=st.floats(0.5, 500), duration_s=st.floats(0.1, 10))
def test_constant_arrivals_are_evenly_spaced(rate: float, duration_s: float) -> None:
    schedule = draw_schedule(LoadParams(arrival="constant", rate=rate), duration_s, 0, POOL)
    assert schedule.offset_ns[0] == 0
    assert abs(len(schedule) - rate * duration_s) <= 1
    assert np.allclose(np.diff(schedule.offset_ns), 1e9 / rate, atol=2)


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(20, 200), seed=st.integers(0, 2**32 - 1))
def test_poisson_arrivals_have_exponential_gaps_and_the_wanted_rate(rate: float, seed: int) -> None:
    duration_s = 50.0
    schedule = draw_schedule(LoadParams(arrival="poisson", rate=rate), duration_s, seed, POOL)
    expected = rate * duration_s
    assert abs(len(schedule) - expected) < 6 * np.sqrt(expected)
    gaps_s = np.diff(schedule.offset_ns) / 1e9
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / rate)).pvalue > 1e-7


def test_columns_are_independent_of_each_other() -> None:
    params = LoadParams(arrival="poisson", rate=50)
    other = params.model_copy(update={"prompt_tokens": TokenCount(distribution="uniform", min=1, max=9)})
    one, two = (draw_schedule(p, 5, 3, POOL) for p in (params, other))
    assert np.array_equal(one.offset_ns, two.offset_ns)
    assert not np.array_equal(one.prompt_tokens, two.prompt_tokens)


def test_another_seed_is_another_schedule() -> None:
    params = LoadParams(arrival="poisson", rate=50)
    assert not np.array_equal(draw_schedule(params, 5, 1, POOL).offset_ns, draw_schedule(params, 5, 2, POOL).offset_ns)


@pytest.mark.parametrize("distribution", ["normal", "lognormal"])
def test_mean_and_stdev_are_those_of_the_counts(distribution: str) -> None:
    tokens = TokenCount(distribution=distribution, mean=200, stdev=30, min=1, max=4000)  # type: ignore[arg-type]
    counts = draw_token_counts(tokens, 20_000, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(200, abs=2)
    assert counts.std() == pytest.approx(30, abs=2)


def test_uniform_reaches_both_ends() -> None:
    tokens = TokenCount(distribution="uniform", min=3, max=6)
    counts = draw_token_counts(tokens, 1000, np.random.default_rng(0))
    assert set(counts.tolist()) == {3, 4, 5, 6}
