"""Differences of campaigns against brute force and plain facts."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.compare.statistics import Resampling, difference, dominance

HOW = Resampling(samples=500)


def values(*numbers: float, first: int = 0) -> dict[str, float]:
    return {f"case-{first + i}": number for i, number in enumerate(numbers)}


def test_paired_over_common_cases() -> None:
    a, b = values(1, 0.8, 0.6, 1, 0.2, 0.4), values(0.5, 0.3, 0.1, 0.5, -0.3, -0.1)
    found = difference(a, b, HOW, "x")
    assert found is not None
    assert found.paired
    assert found.value == pytest.approx(-0.5)
    assert (found.low, found.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert found.p == pytest.approx(2 / 2**6)
    assert found.p_below == pytest.approx(1 / 2**6)
    assert found.p_above == pytest.approx(1 - 1 / 2**6)


def test_two_samples_where_few_cases_are_common() -> None:
    a, b = values(1, 2, 3, 4), values(3, 4, 5, 6, first=3)
    found = difference(a, b, HOW, "x")
    assert found is not None
    assert (found.paired, found.p, found.cases_a, found.cases_b) == (False, None, 4, 4)
    assert found.value == pytest.approx(2.0)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 2 < found.high < 4


def test_one_case_has_no_interval_and_none_no_difference() -> None:
    found = difference(values(1), values(2), HOW, "x")
    assert found is not None
    assert (found.value, found.low, found.high, found.p) == (1, None, None, 1)
    assert difference({}, values(1), HOW, "x") is None


def test_same_input_same_result() -> None:
    a, b = values(*range(9)), values(*range(3, 12), first=20)
    assert difference(a, b, HOW, "x") == difference(a, b, HOW, "x")


@pytest.mark.parametrize("first", [0, 30])
def test_cliffs_delta_is_that_of_all_pairs(first: int) -> None:
    rng = np.random.default_rng(1)
    a = {f"case-{i}": rng.integers(0, 20, 30).astype(float) for i in range(6)}
    b = {f"case-{i + first}": rng.integers(5, 25, 40).astype(float) for i in range(6)}
    found = dominance(a, b, HOW, "x")
    together = [np.concatenate(list(side.values())) for side in (a, b)]
    expected = np.sign(together[1][None, :] - together[0][:, None]).mean()
    assert found is not None
    assert found.value == pytest.approx(expected)
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected < found.high
    assert found.size == "medium"


def test_cliffs_delta_of_many_requests_is_close() -> None:
    rng = np.random.default_rng(2)
    a, b = ({"case-1": rng.normal(shift, 1, 5000), "case-2": rng.normal(shift, 1, 5000)} for shift in (0, 1))
    found = dominance(a, b, HOW, "x")
    assert found is not None
    assert found.value == pytest.approx(0.52, abs=0.02)  # 2 Φ(1/√2) − 1
