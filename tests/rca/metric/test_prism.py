from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.baro import baro
from tasks.rca.metric.prism import prism
from tests.rca.views import view_of

RNG = np.random.default_rng(0)
NORMAL = [1.0, 2, 3, 4, 5]
"""Median 3, interquartile range 2."""


def test_a_delay_that_grows_on_its_way_does_not_make_the_caller_the_root() -> None:
    """The paper's fan-in: a caller waits for its backend many times over, so a small delay there is a large one here.

    Backend: CPU 4 ranges up, latency 3. Caller: latency 30, CPU as ever (1 range, its normal extreme)."""
    columns = {
        ("backend", "cpu_usage"): [*NORMAL, 11.0],
        ("backend", "latency_p90"): [*NORMAL, 9.0],
        ("caller", "cpu_usage"): [*NORMAL, 5.0],
        ("caller", "latency_p90"): [*NORMAL, 63.0],
    }
    view = view_of(columns, normal_rows=5)
    highest = dict(baro(view, RNG).services)
    assert max(highest, key=highest.__getitem__) == "caller"
    assert dict(prism(view, RNG).services) == pytest.approx({"backend": 3, "caller": 1})


def test_resources_alone_do_not_make_a_root_either() -> None:
    columns = {
        ("busy", "cpu_usage"): [*NORMAL, 9.0],
        ("busy", "error_rate"): [*NORMAL, 3.0],
        ("root", "cpu_usage"): [*NORMAL, 7.0],
        ("root", "error_rate"): [*NORMAL, 7.0],
    }
    assert dict(prism(view_of(columns, normal_rows=5), RNG).services) == pytest.approx({"busy": 0, "root": 2})


def test_what_is_not_recorded() -> None:
    """Without internal metrics nothing tells a service from a victim; without external ones the internal decide."""
    columns = {("inside", "memory_rss"): [*NORMAL, 7.0], ("outside", "latency_p50"): [*NORMAL, 63.0]}
    assert dict(prism(view_of(columns, normal_rows=5), RNG).services) == pytest.approx({"inside": 2, "outside": 0})
    with pytest.raises(MethodError, match="no internal metric"):
        prism(view_of({("a", "latency_p50"): [*NORMAL, 7.0]}, normal_rows=5), RNG)


def test_only_rises_if_asked() -> None:
    columns = {("a", "cpu_usage"): [*NORMAL, -5.0], ("a", "latency_p90"): [*NORMAL, 9.0]}
    view = view_of(columns, normal_rows=5)
    assert dict(prism(view, RNG).services) == pytest.approx({"a": 3})
    assert dict(prism(view, RNG, direction="up").services) == pytest.approx({"a": -4})
