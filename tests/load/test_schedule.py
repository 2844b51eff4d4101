from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.load.schedule import Schedule, draw_schedule, draw_token_counts
from tasks.params import LoadParams, TokenCount
from tasks.traffic import LoadShape, LongPrompts
from tests.load.shapes import integral, load_shapes

POOL = 1000
FAULT_START_S = 10.0

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


@pytest.mark.parametrize(
    ("arrival", "rate", "duration_s", "seed", "expected"),
    [
        ("poisson", 3, 57, 42, "5579276e9c656ffa"),
        ("poisson", 180.5, 20, 7, "3bcff1cba10c2348"),
        ("constant", 3, 57, 42, "97caacc761c23933"),
        ("constant", 0.7, 33.3, 1, "98a69a00103baac2"),
    ],
)
def test_a_load_without_shapes_is_the_one_that_older_cases_had(
    arrival: str, rate: float, duration_s: float, seed: int, expected: str
) -> None:
    tokens = TokenCount(distribution="lognormal", mean=20, stdev=9)
    params = LoadParams(arrival=arrival, rate=rate, output_tokens=tokens)  # type: ignore[arg-type]
    for shapes in ((), (LoadShape(kind="surge", start_s=60, duration_s=5, factor=2),)):  # the second comes too late
        schedule = draw_schedule(params.model_copy(update={"shapes": shapes}), duration_s, seed, POOL)
        whole = hashlib.sha256(b"".join(column.tobytes() for column in columns(schedule))).hexdigest()
        assert whole.startswith(expected)


@settings(deadline=None)
@given(params=load_params(), shapes=load_shapes(), duration_s=st.floats(0.1, 30), seed=st.integers(0, 2**32 - 1))
def test_a_shaped_schedule_is_a_pure_function_within_its_bounds(
    params: LoadParams, shapes: tuple[LoadShape, ...], duration_s: float, seed: int
) -> None:
    shaped = params.model_copy(update={"shapes": shapes})
    schedule = draw_schedule(shaped, duration_s, seed, POOL, FAULT_START_S)
    again = draw_schedule(shaped, duration_s, seed, POOL, FAULT_START_S)
    assert all(np.array_equal(one, other) for one, other in zip(columns(schedule), columns(again), strict=True))
    assert (np.diff(schedule.offset_ns) >= 0).all()
    assert ((schedule.offset_ns >= 0) & (schedule.offset_ns < duration_s * 1e9)).all()
    longer = draw_schedule(shaped, duration_s + 3, seed, POOL, FAULT_START_S)
    for one, other in zip(columns(schedule), columns(longer), strict=True):
        assert np.array_equal(one, other[: len(one)])


@settings(deadline=None)
@given(rate=st.floats(0.5, 200), shapes=load_shapes(), until_s=st.floats(1, 30))
def test_constant_arrivals_follow_the_integral_of_the_rate(
    rate: float, shapes: tuple[LoadShape, ...], until_s: float
) -> None:
    params = LoadParams(arrival="constant", rate=rate, shapes=shapes)
    schedule = draw_schedule(params, 30, 0, POOL, FAULT_START_S)
    expected = rate * integral(shapes, FAULT_START_S, until_s)
    assert abs((schedule.offset_ns < until_s * 1e9).sum() - expected) <= 1.1 + 0.01 * expected


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(50, 200), shapes=load_shapes(), seed=st.integers(0, 2**32 - 1))
def test_poisson_counts_in_windows_match_the_integral_of_the_rate(
    rate: float, shapes: tuple[LoadShape, ...], seed: int
) -> None:
    params = LoadParams(arrival="poisson", rate=rate, shapes=shapes)
    schedule = draw_schedule(params, 30, seed, POOL, FAULT_START_S)
    for begin_s, end_s in ((0, 10), (10, 15), (15, 30)):
        counted = ((schedule.offset_ns >= begin_s * 1e9) & (schedule.offset_ns < end_s * 1e9)).sum()
        before = integral(shapes, FAULT_START_S, begin_s or 1e-9)
        expected = max(0.0, rate * (integral(shapes, FAULT_START_S, end_s) - before))  # sums may miss zero by rounding
        assert abs(counted - expected) < 6 * np.sqrt(expected) + 6 + 0.01 * expected


def test_a_share_of_the_requests_of_an_interval_has_long_prompts() -> None:
    some = LongPrompts(share=0.3, tokens=999, start_s=-2, duration_s=6)
    params = LoadParams(arrival="constant", rate=100, long_prompts=some)
    schedule = draw_schedule(params, 20, 1, POOL, FAULT_START_S)
    usual = draw_schedule(params.model_copy(update={"long_prompts": None}), 20, 1, POOL, FAULT_START_S)
    long = schedule.prompt_tokens == 999
    inside = (schedule.offset_ns >= 8e9) & (schedule.offset_ns < 14e9)
    assert not long[~inside].any()
    assert abs(long.sum() - 180) < 6 * np.sqrt(600 * 0.3 * 0.7)
    assert np.array_equal(schedule.prompt_tokens[~long], usual.prompt_tokens[~long])
    for name in ("offset_ns", "output_tokens", "prompt_start"):
        assert np.array_equal(getattr(schedule, name), getattr(usual, name))
