from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.rca.features.deviation import change_scores, credible, deviation_scores
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
    count = np.count_nonzero(~np.isnan(values), axis=0)[known][spread]
    np.testing.assert_allclose(scores[known][spread], credible(expected, count))


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 5),
    level=st.floats(-1e3, 1e3),
    jitter=st.floats(1e-9, 1e-3),
    change=st.floats(0.1, 1e9),
    unit=st.sampled_from([1e-9, 1.0, 1e12]),
    centre=st.sampled_from(["mean", "median"]),
)
def test_few_nearly_equal_samples_vouch_for_little(
    count: int, level: float, jitter: float, change: float, unit: float, centre: str
) -> None:
    """Two samples 0.001 % apart once made a deviation of 999."""
    normal = [unit * (level + jitter * (i % 2)) for i in range(count)]
    for away in (change, -change):
        found = score(normal, [unit * (level + away)], centre=centre)
        assert 0 < found <= 1.05 * np.sqrt(8 * count)
        plain = score([value / unit for value in normal], [level + away], centre=centre)
        assert found == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_the_bound_grows_with_the_root_of_the_count_and_keeps_the_order(centre: str) -> None:
    near, nearer = ([5 + gap * (i % 2) for i in range(5)] for gap in (1e-4, 1e-6))
    bounds = [score(nearer[:count], [9], centre=centre) for count in range(2, 6)]
    assert bounds == pytest.approx([1.05 * np.sqrt(8 * count) for count in range(2, 6)], rel=1e-3)
    for count in range(2, 6):
        assert score(near[:count], [9], centre=centre) < score(nearer[:count], [9], centre=centre)
    assert score(nearer[:1], [9], centre=centre) < 3


def test_a_small_deviation_of_few_samples_and_any_of_many_are_as_they_were() -> None:
    assert score([0, 2], [5], centre="mean") == 4  # at the bound of two
    assert score([1, 2, 3, 4, 5], [3, 9], centre="median") == 3
    assert score([0, 2, 0, 2, 0, 2], [1e6], centre="mean") == 1e6 - 1


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_two_equal_samples_do_not_outrank_a_fault_that_twenty_show(centre: str) -> None:
    rng = np.random.default_rng(3)
    known = pd.DataFrame({"sure": rng.normal(size=20), "few": [nan] * 18 + [5, 5.00001]})
    scores = deviation_scores(known, pd.DataFrame({"sure": [0.0, 12.0], "few": [5.01, 5.01]}), centre=centre)  # type: ignore[arg-type]
    assert scores["sure"] > scores["few"] > 0


@pytest.mark.parametrize(("centre", "unit"), [("mean", 1.0), ("median", 1.3489795)])
def test_what_stops_or_begins_scores_beside_what_strays(centre: str, unit: float) -> None:
    """Absence in 10 of 10 rows after presence in 10 of 10: 2 x 20 ln 2 = 5.27 squared."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({(name, "cpu"): rng.normal(size=20) for name in "abcde"})
    table.loc[10:, ("b", "cpu")] = nan
    table.loc[:9, ("c", "cpu")] = nan
    table[("d", "other")] = nan
    full = change_scores(table[:10], table[10:], centre=centre)  # type: ignore[arg-type]
    assert full[[("b", "cpu"), ("c", "cpu")]].tolist() == pytest.approx([np.sqrt(40 * np.log(2)) / unit] * 2)
    assert full[("a", "cpu")] == deviation_scores(table[:10], table[10:], centre=centre)[("a", "cpu")]  # type: ignore[arg-type]
    assert np.isnan(full[("d", "other")])
    rises = change_scores(table[:10], table[10:], centre=centre, direction="up")  # type: ignore[arg-type]
    assert rises[("b", "cpu")] == 0
    assert rises[("c", "cpu")] == full[("c", "cpu")]
