from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.siblings_only import siblings_only
from tasks.rca.view import CaseView
from tests.rca.views import view_of

RNG = np.random.default_rng(0)
ROWS = 12


def scores(view: CaseView, **parameters: int) -> dict[str, float]:
    return dict(siblings_only(view, RNG, **parameters).services)


def constant(**values: float) -> CaseView:
    """One metric per service that has the same value all the time; the fault begins after four rows."""
    return view_of({(service, "x"): [value] * ROWS for service, value in values.items()}, normal_rows=4)


def test_known_answer() -> None:
    """0, 0 and 1: distances 1, 1, 2; mean 4/3, deviation sqrt(2)/3, z of the outlier sqrt(2), the largest of three.

    0, 1 and 3: distances 4, 3, 5; mean 4, deviation sqrt(2/3); z of the outlier sqrt(3/2)."""
    assert scores(constant(a=0, b=0, c=1)) == pytest.approx({"a": 0, "b": 0, "c": 1})
    assert scores(constant(a=0, b=1, c=3)) == pytest.approx({"a": 0, "b": 0, "c": np.sqrt(3) / 2})


def test_minder_finds_the_machine_that_keeps_apart_not_the_one_that_jumps_once() -> None:
    """The principle of continuity: a is far away for two rows, b a little for all of them.

    15 windows of two rows: b is furthest in one, then a in three, then b in eleven."""
    columns = {(name, "x"): [10.0] * 20 for name in "abcde"}
    columns["a", "x"][6:8] = [100.0, 100.0]
    columns["b", "x"] = [11.0] * 20
    found = scores(view_of(columns, normal_rows=4), window=2)
    assert found["b"] == pytest.approx(11 / 15)
    assert found["a"] == pytest.approx(3 / 15, rel=0.01)
    assert found["c"] == found["d"] == found["e"] == 0


def test_its_own_past_does_not_matter() -> None:
    """b was as far from the others before the fault as it is now: a comparison of siblings alone cannot know."""
    view = constant(a=1, b=2, c=1)
    moved = view.metrics.copy()
    moved.iloc[:4] = 7.0
    assert scores(replace(view, metrics=moved)) == scores(view)
    assert scores(view)["b"] == pytest.approx(1)


def test_who_has_no_siblings_is_left_out() -> None:
    view = constant(gateway=9, a=1, b=1, c=2)
    roles = {"gateway": "gateway", "a": "replica", "b": "replica", "c": "replica"}
    assert set(scores(replace(view, roles=roles))) == {"a", "b", "c"}
    for lonely in (
        replace(view, roles=dict.fromkeys(view.services, "service")),
        replace(view, roles={**roles, "c": "head"}),
    ):
        with pytest.raises(MethodError, match="no role has 3 services"):
            scores(lonely)


def test_silence_among_siblings_that_are_heard_stands_out() -> None:
    columns = {(name, "x"): [1.0, 1.1] * (ROWS // 2) for name in "abcd"}
    columns["c", "x"][4:] = [np.nan] * (ROWS - 4)
    assert scores(view_of(columns, normal_rows=4)) == pytest.approx({"a": 0, "b": 0, "c": 1, "d": 0})
    for name in "abd":
        columns[name, "x"][4:] = [np.nan] * (ROWS - 4)
    columns["a", "y"], columns["b", "y"] = ([1.0] * ROWS for _ in range(2))
    with_others = view_of({**columns, ("c", "y"): [1.0] * ROWS, ("d", "y"): [2.0] * ROWS}, normal_rows=4)
    assert scores(with_others)["d"] == pytest.approx(1)
    assert scores(with_others)["c"] == 0


def test_units_of_a_metric_do_not_matter() -> None:
    view = constant(a=0, b=1, c=3)
    assert scores(replace(view, metrics=view.metrics * 1e-9)) == pytest.approx(scores(view))
    assert scores(replace(view, metrics=view.metrics - 1e3)) == pytest.approx(scores(view), abs=1e-6)


def test_needs_samples_after_the_fault() -> None:
    view = constant(a=0, b=0, c=1)
    with pytest.raises(MethodError, match="after the inject time"):
        scores(replace(view, inject_time=view.metrics.index[-1].ceil("1h")))
