"""Methods on fleets: what an algorithm cannot do it says at once, and nothing but that grows with the square."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric import siblings_only as siblings_module
from tasks.rca.registry import get_method
from tasks.rca.view import CaseView, column_names
from tests.rca.views import view_of

ROWS = 14
SMALL_MB = 40
CIRCA_MB = 15


def fleet(replicas: int, metrics: tuple[str, ...]) -> CaseView:
    """A gateway, a head and replicas whose metrics are noise; the first replica's jump."""
    rng = np.random.default_rng(0)
    services = ["gateway", "head", *(f"replica-{i}" for i in range(replicas))]
    columns = [(service, metric) for service in services for metric in metrics]
    values = rng.normal(size=(ROWS, len(columns)))
    values[8:, [i for i, (service, _) in enumerate(columns) if service == "replica-0"]] += 50
    view = view_of({column: [0.0] for column in columns}, normal_rows=8)
    index = pd.DatetimeIndex(view.metrics.index[0] + pd.to_timedelta(np.arange(ROWS), unit="s"), name="time")
    calls = [("calls", "gateway", "head"), *(("calls", "head", service) for service in services[2:])]
    return replace(
        view,
        metrics=pd.DataFrame(values, index=index, columns=view.metrics.columns),
        sli=pd.Series(rng.normal(size=ROWS), index=index, name="sli"),
        topology=pd.DataFrame(calls, columns=["relation", "source", "target"]),
    )


@contextmanager
def peak_mb() -> Iterator[list[float]]:
    """Append the most memory that was taken within."""
    found: list[float] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1] / 2**20)
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large() -> CaseView:
    return fleet(1100, ("request_rate", "cpu_usage", "memory_rss", "latency_p90", "error_rate", "x"))


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *((f"{graph}_{walk}", "500") for graph in ("pc", "fci") for walk in ("pagerank", "randomwalk")),
        ("causalai", "500"),
        ("mmcirca", "500"),
        ("granger_pagerank", "6000"),
        ("granger_randomwalk", "6000"),
        ("microcause", "3300"),
        ("causalrca", "multiplications"),
        ("lingam_pagerank", "needs more rows than metrics"),
    ],
)
def test_what_cannot_scale_says_so_before_it_computes(name: str, limit: str, large: CaseView) -> None:
    """A matrix of all pairs of columns would take 330 MiB."""
    with peak_mb() as peak, pytest.raises(MethodError, match=f"6612 metrics.*{limit}"):
        get_method(name).run(large, np.random.default_rng(0))
    assert peak[0] < SMALL_MB


def test_circa_takes_memory_by_edges_not_by_pairs_of_columns() -> None:
    view = fleet(300, ("request_rate", "cpu_usage", "latency_p90", "error_rate"))
    with peak_mb() as peak:
        ranking = get_method("circa").run(view, np.random.default_rng(0))
    assert max(ranking.services, key=lambda each: each[1])[0] == "replica-0"
    assert peak[0] < CIRCA_MB


def test_siblings_only_names_the_columns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    view, asked = fleet(60, ("cpu_usage", "x")), []
    monkeypatch.setattr(siblings_module, "column_names", lambda metrics: asked.append(1) or column_names(metrics))
    ranking = get_method("siblings_only").run(view, np.random.default_rng(0))
    assert max(ranking.services, key=lambda each: each[1])[0] == "replica-0"
    assert len(asked) == 1
