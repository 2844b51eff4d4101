from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.rca.deviation import deviation_scores
from tasks.rca.method import MethodError

nan = np.nan


def score(normal: list[float], abnormal: list[float], **options: str) -> float:
    scores = deviation_scores(
        pd.DataFrame({"x": normal}, dtype=float), pd.DataFrame({"x": abnormal}, dtype=float), **options
    )
    return float(scores["x"])


def test_mean_divides_by_the_population_deviation() -> None:
    assert score([0, 2], [1, 5], centre="mean") == pytest.approx(4)  # mean 1, deviation 1


def test_median_divides_by_the_interquartile_range() -> None:
    assert score([1, 2, 3, 4, 5], [3, 9], centre="median") == pytest.approx(3)  # median 3, quartiles 2 and 4


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_a_fall_counts_like_a_rise_unless_only_rises_are_asked_for(centre: str) -> None:
    assert score([0, 1, 2], [-9], centre=centre) == pytest.approx(score([0, 1, 2], [11], centre=centre))
    assert score([0, 1, 2], [-9, 1], centre=centre, direction="up") == 0


def test_a_mostly_constant_column_uses_its_standard_deviation_not_raw_units() -> None:
    spiky = [0.0] * 9 + [10.0]  # quartiles 0 and 0, deviation 3
    assert score(spiky, [30], centre="median") == pytest.approx(30 / (3 * 1.34898), rel=1e-4)
    assert score([1e6 * x for x in spiky], [30e6], centre="median") == pytest.approx(30 / (3 * 1.34898), rel=1e-4)


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_a_column_that_was_constant_and_jumps_scores_by_how_long_it_was_quiet(centre: str, unit: float) -> None:
    assert score([5 * unit] * 16, [7 * unit] * 3, centre=centre) == pytest.approx(4)
    assert score([0.0] * 25, [unit], centre=centre) == pytest.approx(5)


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_constant_columns_and_rounding_noise_score_zero(centre: str) -> None:
    assert score([0] * 5, [0] * 5, centre=centre) == 0
    assert score([0.3] * 5, [0.1 + 0.2] * 5, centre=centre) == 0
    assert score([0.3, 0.1 + 0.2, 0.3], [0.1 + 0.2, 0.3], centre=centre) == 0


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_missing_samples_are_left_out(centre: str) -> None:
    with_gaps = score([1, nan, 2, 4, nan, 7], [nan, 12], centre=centre)
    assert with_gaps == pytest.approx(score([1, 2, 4, 7], [12], centre=centre))
    scores = deviation_scores(
        pd.DataFrame({"a": [1.0, 2], "b": [nan, nan], "c": [1.0, 2]}),
        pd.DataFrame({"a": [3.0], "b": [3.0], "c": [nan]}),
        centre=centre,  # type: ignore[arg-type]
    )
    assert scores.notna().tolist() == [True, False, False]


@pytest.mark.parametrize(("normal", "abnormal", "window"), [([], [1], "before"), ([1], [nan], "after")])
def test_an_empty_window_is_a_named_error(normal: list[float], abnormal: list[float], window: str) -> None:
    with pytest.raises(MethodError, match=f"no metric sample {window} the inject time"):
        score(normal, abnormal, centre="mean")


finite = st.integers(-1000, 1000).map(float)
windows = arrays(float, st.tuples(st.integers(2, 12), st.just(3)), elements=finite)


@settings(max_examples=60, deadline=None)
@given(
    normal=windows,
    abnormal=windows,
    unit=st.sampled_from([1e-9, 1e-3, 1e6]),
    centre=st.sampled_from(["mean", "median"]),
)
def test_units_never_decide(normal: np.ndarray, abnormal: np.ndarray, unit: float, centre: str) -> None:
    plain = deviation_scores(pd.DataFrame(normal), pd.DataFrame(abnormal), centre=centre)  # type: ignore[arg-type]
    scaled = deviation_scores(pd.DataFrame(normal * unit), pd.DataFrame(abnormal * unit), centre=centre)  # type: ignore[arg-type]
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(values=arrays(float, st.tuples(st.integers(1, 20), st.just(4)), elements=st.one_of(finite, st.just(nan))))
def test_spread_agrees_with_numpys_quantiles(values: np.ndarray) -> None:
    """Against NumPy's own nanquantile, on columns whose quartiles differ."""
    probe = np.full((1, 4), 5000.0)
    known = np.count_nonzero(~np.isnan(values), axis=0) > 0
    if not known.any():
        return
    scores = deviation_scores(pd.DataFrame(values), pd.DataFrame(probe), centre="median").to_numpy()
    low, middle, high = np.nanquantile(values[:, known], [0.25, 0.5, 0.75], axis=0)
    spread = high > low
    expected = (5000.0 - middle[spread]) / (high - low)[spread]
    np.testing.assert_allclose(scores[known][spread], expected)
