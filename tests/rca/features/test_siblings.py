from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.features.siblings import Judge, adjacent_changes, change_noise, quantile, sampling_error, shared_part

NAN = np.nan


@pytest.mark.parametrize(
    ("changes", "shared", "median"),
    [
        ([1.0, 2.0, 5.0], 1.0, 2.0),
        ([-1.0, -2.0, -5.0], -1.0, -2.0),
        ([-1.0, 2.0, 5.0], 0.0, 2.0),
        ([4.0, 4.2, 0.1], 0.1, 4.0),  # two of three are at fault: the median is the fault
        ([NAN, 2.0, 3.0], 2.0, 2.5),
        ([NAN, NAN, 3.0], 0.0, 0.0),  # nobody to share with
    ],
)
def test_shared_part_of_few(changes: list[float], shared: float, median: float) -> None:
    group = np.zeros(3, dtype=int)
    assert shared_part(np.array(changes), group, "shared") == pytest.approx(shared)
    assert shared_part(np.array(changes), group, "median") == pytest.approx(median)
    assert shared_part(np.array(changes), group, "none") == pytest.approx(0.0)


def test_shared_part_of_many_is_the_median() -> None:
    assert shared_part(np.arange(9.0), np.zeros(9, dtype=int), "shared") == pytest.approx(4.0)


def test_roles_share_nothing_with_each_other() -> None:
    found = shared_part(np.array([7.0, 1.0, 2.0]), np.array([0, 1, 1]), "shared")
    assert found.tolist() == [0.0, 1.0, 1.0]


def test_quantile_leaves_nan_out() -> None:
    assert quantile(np.array([[4.0, NAN, 1.0, 3.0], [NAN] * 4]), 0.5) == pytest.approx([3.0, NAN], nan_ok=True)


def test_adjacent_changes() -> None:
    values = np.array([1.0, 1.0, 3.0, 5.0, NAN])[:, None]
    assert adjacent_changes(values, 2)[:, 0] == pytest.approx([3.0, 3.0])  # 4 - 1, then 5 - 2


def test_what_siblings_share_is_no_noise() -> None:
    common = np.random.default_rng(0).normal(size=(30, 1)) * np.ones((1, 3))
    group = np.zeros(3, dtype=int)
    assert change_noise(common, group, "none") == pytest.approx(change_noise(common, group, "none")[0] * np.ones(3))
    assert change_noise(common, group, "none")[0] > 0.1
    assert change_noise(common, group, "shared") == pytest.approx(np.zeros(3))


def test_sampling_error_of_the_median_of_normal_values() -> None:
    """pi / 2 over the samples, whether or not there is a step."""
    values = np.random.default_rng(0).normal(size=(4000, 1))
    expected = np.sqrt(np.pi / 2 / 4000)
    assert sampling_error(values, 1.0)[0] == pytest.approx(expected, rel=0.1)
    values[2000:] += 50
    assert sampling_error(values, 1.0)[0] == pytest.approx(expected, rel=0.1)


def changed(values: np.ndarray, **how: object) -> np.ndarray:
    judge = Judge(np.zeros(values.shape[1], dtype=int), **how)  # type: ignore[arg-type]
    return judge.change(values, np.arange(len(values)) < 10, 0.1).own


def test_a_change_less_what_siblings_share() -> None:
    values = np.zeros((20, 3))
    values[10:] = [5.0, 1.0, 2.0]
    assert changed(values) == pytest.approx([4.0, 0.0, 1.0])
    assert changed(values, reference="none") == pytest.approx([5.0, 1.0, 2.0])
    assert changed(values, history=False) == pytest.approx([3.0, -1.0, 0.0])


def test_a_third_of_the_window_is_enough() -> None:
    values = np.zeros((22, 3))
    values[18:, 0] = 4.0
    assert changed(values)[0] == pytest.approx(4.0)


def test_without_floors_a_calm_column_makes_anything_significant() -> None:
    values = np.zeros((20, 1))
    values[10:] = 0.01
    before = np.arange(20) < 10
    assert Judge(np.zeros(1, dtype=int)).change(values, before, 0.1).z[0] == pytest.approx(0.1)
    assert Judge(np.zeros(1, dtype=int), floors=False).change(values, before, 0.1).z[0] > 100
