from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.intensity import intensity
from tasks.traffic import LoadShape
from tests.load.shapes import factor_at, integral, load_shapes

FAULT_START_S = 20.0


def shape(kind: str, start_s: float, duration_s: float, factor: float, **more: float) -> LoadShape:
    return LoadShape.model_validate(
        {"kind": kind, "start_s": start_s, "duration_s": duration_s, "factor": factor, **more}
    )


@settings(deadline=None)
@given(shapes=load_shapes(), until_s=st.floats(1, 60))
def test_operational_time_is_the_integral_of_the_factor(shapes: tuple[LoadShape, ...], until_s: float) -> None:
    found = intensity(shapes, FAULT_START_S)
    expected = integral(shapes, FAULT_START_S, until_s)
    assert found.operational(np.array([until_s]))[0] == pytest.approx(expected, rel=2e-3, abs=0.02)


@settings(deadline=None)
@given(shapes=load_shapes())
def test_the_factor_is_the_product_of_the_shapes(shapes: tuple[LoadShape, ...]) -> None:
    found = intensity(shapes, FAULT_START_S)
    time_s = np.linspace(0, 60, 6001) + 0.00137
    differ = ~np.isclose(found.factor(time_s), factor_at(shapes, time_s - FAULT_START_S))
    assert differ.mean() < 0.002  # a sample on an edge
    assert found.peak >= found.factor(time_s).max() - 1e-9


@settings(deadline=None)
@given(shapes=load_shapes(), seed=st.integers(0, 1000))
def test_real_time_inverts_operational_time(shapes: tuple[LoadShape, ...], seed: int) -> None:
    found = intensity(shapes, FAULT_START_S)
    operational_s = np.sort(np.random.default_rng(seed).uniform(0, 200, 500))
    real_s = found.real(operational_s)
    assert (np.diff(real_s) >= 0).all()
    assert np.allclose(found.operational(real_s), operational_s, atol=1e-7)
    assert (found.factor(real_s + 1e-9) > 0).mean() > 0.99  # nothing leaves in a pause


def test_every_kind_by_hand() -> None:
    time_s = np.array([0.0, 5, 9.999, 10, 12, 14.999, 15, 20])
    for one, expected in (
        (shape("surge", 0, 5, 3), [1, 1, 1, 3, 3, 3, 1, 1]),
        (shape("drop", 0, 5, 0.2), [1, 1, 1, 0.2, 0.2, 0.2, 1, 1]),
        (shape("ramp", 0, 5, 2), [1, 1, 1, 1, 1.4, 1.9998, 2, 2]),
        (shape("burst", 0, 4.8, 2, period_s=2.3), [1, 1, 1, 2, 0, 1, 1, 1]),  # two periods of 2.4 s fit
        (shape("surge", -10, 5, 2), [2, 1, 1, 1, 1, 1, 1, 1]),
    ):
        assert intensity([one], 10).factor(time_s) == pytest.approx(expected), one


def test_a_ramp_and_its_inverse_make_a_trapezoid() -> None:
    both = intensity([shape("ramp", 0, 4, 3), shape("ramp", 10, 4, 1 / 3)], 0)
    assert both.factor(np.array([0.0, 2, 4, 9, 12, 14, 50])) == pytest.approx([1, 2, 3, 3, 2, 1, 1])


@given(factor=st.floats(1.1, 50), duration_s=st.floats(1, 100), period_s=st.floats(0.5, 50))
def test_a_burst_keeps_the_mean(factor: float, duration_s: float, period_s: float) -> None:
    burst = intensity([shape("burst", 3, duration_s, factor, period_s=period_s)], 0)
    whole = np.diff(burst.operational(np.array([3, 3 + duration_s])))[0]
    assert whole == pytest.approx(duration_s)


def test_what_leaves_at_the_begin_of_a_pause_leaves_at_its_end() -> None:
    pause = intensity([shape("drop", 5, 10, 0)], 0)
    assert pause.real(np.array([4.0, 5.0, 6.0])) == pytest.approx([4, 15, 16])
