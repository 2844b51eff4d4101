from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.rcd import rcd
from tasks.rca.multi_source.mmrcd import mmrcd
from tasks.rca.view import CaseView
from tests.rca.traces import call, with_logs, with_traces
from tests.rca.views import view_of

ROWS, NORMAL = 60, 40


def noisy(*services: str) -> CaseView:
    """CPU that knows nothing of the fault."""
    random = np.random.default_rng(0)
    columns = {(service, "cpu"): random.normal(10, 1, ROWS).tolist() for service in services}
    return view_of(columns, normal_rows=NORMAL)


def first(view: CaseView, seed: int = 0) -> str:
    return max(mmrcd(view, np.random.default_rng(seed)).services, key=lambda entry: entry[1])[0]


def test_without_logs_and_spans_it_is_rcd() -> None:
    view = noisy("a", "b", "c")
    assert mmrcd(view, np.random.default_rng(1)) == rcd(view, np.random.default_rng(1))


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_that_only_logs_show_is_found(seed: int) -> None:
    """b logs one line a second, and three of another kind from the fault on; no metric tells."""
    view = noisy("a", "b", "c")
    lines = [(at + 0.5, name, "info", "line") for name in "abc" for at in range(-NORMAL, ROWS - NORMAL)]
    lines += [(at + shift, "b", "error", "broken") for at in range(ROWS - NORMAL) for shift in (0.3, 0.6, 0.9)]
    assert first(with_logs(view, lines), seed) == "b"


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_that_only_spans_show_is_found(seed: int) -> None:
    """Calls to c take ten times as long from the fault on."""
    random = np.random.default_rng(seed)
    roots = [
        call(name, at + 0.1, (0.2 if name == "c" and at >= 0 else 0.02) * random.uniform(0.8, 1.2))
        for name in "abc"
        for at in range(-NORMAL, ROWS - NORMAL)
    ]
    assert first(with_traces(noisy("a", "b", "c"), roots), seed) == "c"


def test_services_that_are_no_candidates_are_left_out() -> None:
    view = noisy("a", "b")
    lines = [(at + 0.5, "stranger", "info", "line") for at in range(-NORMAL, ROWS - NORMAL)]
    ranking = mmrcd(with_logs(view, lines), np.random.default_rng(0))
    assert set(dict(ranking.services)) == {"a", "b"}


def test_needs_both_sides_of_the_fault() -> None:
    view = noisy("a")
    with pytest.raises(MethodError, match="before the inject time"):
        mmrcd(replace(view, inject_time=view.metrics.index[0]), np.random.default_rng(0))
