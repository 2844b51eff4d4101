from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import Case, as_signal
from tasks.report import latency
from tasks.report.latency import latency_scatter, serving_replica, summarise_requests
from tasks.requests import observed
from tests.copies import copied
from tests.synthetic import T0, synthetic_case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Baseline 0-25 s, fault 25-50 s, recovery 50-60 s."""
    return synthetic_case(tmp_path)


@pytest.fixture
def with_requests(case: Case) -> Callable[[pd.DataFrame], Case]:
    def rewrite(requests: pd.DataFrame) -> Case:
        return copied(case, tables={"requests": requests})

    return rewrite


def requests_at(seconds: list[float], latencies: list[float | None], **columns: object) -> pd.DataFrame:
    scheduled = pd.Timestamp(T0).as_unit("ns") + pd.to_timedelta(seconds, unit="s")
    last = scheduled + pd.to_timedelta(pd.Series(latencies, dtype=float), unit="s")
    table = pd.DataFrame({"scheduled": scheduled, "last_token": pd.DatetimeIndex(last), "status": 200})
    table["request_id"] = [f"r{i}" for i in range(len(table))]
    table["trace_id"] = [f"t{i}" for i in range(len(table))]
    return as_signal("requests", table.assign(**columns)).to_pandas()


def test_quantiles_per_phase(with_requests: Callable[[pd.DataFrame], Case]) -> None:
    seconds = [1, 2, 3, 26, 27, 28, 29, 30, 55]
    latencies = [0.1, 0.2, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 0.7]
    summary = summarise_requests(with_requests(requests_at(seconds, latencies)))
    assert summary is not None
    assert (summary.total, summary.failed) == (9, 0)
    assert summary.quantile("baseline", "p50") == pytest.approx(0.2)
    assert summary.quantile("baseline", "p95") == pytest.approx(0.29)
    assert summary.quantile("fault", "p50") == pytest.approx(3.0)
    assert summary.quantile("fault", "p95") == pytest.approx(4.8)
    assert summary.quantile("recovery", "p50") == summary.quantile("recovery", "p95") == pytest.approx(0.7)


def test_failed_requests_count_in_their_phase_and_not_in_the_quantiles(
    with_requests: Callable[[pd.DataFrame], Case],
) -> None:
    table = requests_at([1, 2, 26, 27, 28], [0.1, 9.0, None, 0.5, 0.7], status=[200, 504, None, 200, 200])
    summary = summarise_requests(with_requests(table))
    assert summary is not None
    assert summary.failed == 2
    assert summary.phases["baseline"].failed == 1
    assert summary.phases["baseline"].p50 == pytest.approx(0.1)
    assert summary.phases["fault"].failed == 1
    assert summary.phases["recovery"].p50 is None


def test_latency_counts_from_the_scheduled_time() -> None:
    table = requests_at([1.0], [2.5], sent=[pd.Timestamp(T0) + pd.Timedelta("3s")])
    assert observed(table)["latency_s"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("columns", "failed"),
    [({}, False), ({"status": [500]}, True), ({"error": ["reset"]}, True), ({"status": [None]}, False)],
)
def test_what_counts_as_failed(columns: dict[str, object], failed: bool) -> None:
    assert observed(requests_at([1.0], [0.5], **columns))["failed"].tolist() == [failed]


def test_no_requests(with_requests: Callable[[pd.DataFrame], Case]) -> None:
    empty = with_requests(requests_at([], []))
    assert summarise_requests(empty) is None
    assert latency_scatter(empty) is None


def test_serving_replica_is_read_from_the_spans(case: Case) -> None:
    spans = case.spans
    expected = spans[spans["service"].astype(str).str.startswith("ray-replicas-")].set_index("trace_id")["service"]
    found = serving_replica(case)
    assert found.to_dict() == expected.astype(str).to_dict()


def test_scatter_tells_replicas_and_errors(with_requests: Callable[[pd.DataFrame], Case], case: Case) -> None:
    table = requests_at([30, 1, 2], [None, 0.2, 0.3], trace_id=[None, f"{1:032x}", "stranger"], status=[503, 200, 200])
    scatter = latency_scatter(with_requests(table))
    assert scatter is not None
    assert scatter.seconds.tolist() == [-24, -23, 5]
    assert scatter.failed.tolist() == [False, False, True]
    assert scatter.errors == ("", "", "HTTP 503")
    assert scatter.services[scatter.service[0]] == serving_replica(case)[f"{1:032x}"]
    assert scatter.service[1:].tolist() == [-1, -1]


def test_quantile_bins_do_not_cross_the_injection(with_requests: Callable[[pd.DataFrame], Case]) -> None:
    seconds = list(np.arange(0, 60, 0.7))
    scatter = latency_scatter(with_requests(requests_at(seconds, [0.1 if s < 25 else 2.0 for s in seconds])))
    assert scatter is not None
    assert set(scatter.p50[scatter.bins < 0]) == {0.1}
    assert set(scatter.p50[scatter.bins > 0]) == {2.0}


def test_thinning_keeps_failures_and_the_slowest(
    with_requests: Callable[[pd.DataFrame], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "MAX_REQUESTS", 60)
    rng = np.random.default_rng(0)
    values: list[float | None] = rng.uniform(0.1, 0.2, 1000).tolist()
    values[500], values[900] = 9.0, None
    scatter = latency_scatter(with_requests(requests_at(np.linspace(0, 59, 1000).tolist(), values)))
    assert scatter is not None
    assert scatter.total == 1000
    assert len(scatter.seconds) <= 60
    assert np.nanmax(scatter.latency_s) == 9.0
    assert scatter.failed.sum() == 1
    assert (np.diff(scatter.seconds) >= 0).all()


def test_requests_outside_every_phase_are_in_the_total_only(with_requests: Callable[[pd.DataFrame], Case]) -> None:
    late = (timedelta(seconds=120)).total_seconds()
    summary = summarise_requests(with_requests(requests_at([1.0, late], [0.1, 0.2])))
    assert summary is not None
    assert summary.total == 2
    assert sum(phase.answered for phase in summary.phases.values()) == 1
