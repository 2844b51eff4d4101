import math

import pytest

from tasks.html.formatting import quantity, score


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.2512, "s", "251 ms"),
        (12.3456, "s", "12.3 s"),
        (3600.0, "s", "3600 s"),
        (0.0000042, "s", "4.2 µs"),
        (1.234e9, "bytes", "1.23 GB"),
        (512.0, "bytes", "512 B"),
        (98_765.0, "bytes/s", "98.8 kB/s"),
        (0.5, "ratio", "0.5"),
        (1.5, "cores", "1.5 cores"),
        (1000.0, "", "1000"),
        (0.0, "s", "0 s"),
        (None, "s", "–"),
        (math.nan, "s", "–"),
    ],
)
def test_quantity(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.25, "0.25"), (0.005, "0.01"), (5 / 1002, "0.005"), (0.001, "0.001")]
)
def test_a_chance_among_a_thousand_does_not_vanish(value: float, text: str) -> None:
    assert score(value) == text


def test_score_has_two_decimals() -> None:
    assert (score(0.6666), score(None)) == ("0.67", "–")
