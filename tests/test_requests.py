from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tasks.requests
from tasks.case import as_signal
from tasks.load.run import load_record
from tasks.params import LoadParams
from tasks.requests import failed, observed, outcomes, time_out_s

T0 = pd.Timestamp("2026-01-02T03:04:05Z").as_unit("ns")


def at(seconds: float | None) -> pd.Timestamp | None:
    return None if seconds is None else T0 + pd.Timedelta(seconds=seconds)


def request(
    scheduled: float,
    first: float | None = None,
    last: float | None = None,
    *,
    sent: float | None = None,
    status: int | None = None,
    error: str | None = None,
) -> dict[str, object]:
    return {
        "scheduled": at(scheduled),
        "sent": at(sent),
        "first_token": at(first),
        "last_token": at(last),
        "status": status,
        "error": error,
    }


def table(*rows: dict[str, object]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=["scheduled", "sent", "first_token", "last_token", "status", "error"])
    frame["request_id"] = [f"r{i}" for i in range(len(frame))]
    return as_signal("requests", frame).to_pandas()


SERVED = request(0, 0.1, 0.5, status=200)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (SERVED, False),
        (request(0, 0.1, 0.5), False),
        (request(0, 0.1, 0.5, status=204), False),
        (request(0, None, 0.5, status=200), False),
        (request(0, 0.1, 0.5, status=200, error=""), False),
        (request(0, 0.1, 0.5, status=200, error="error in stream"), True),
        (request(0, 0.1, 0.5, error="connection reset"), True),
        (request(0, 0.1, 0.5, status=503), True),
        (request(0, 0.1, 0.5, status=302), True),
        (request(0, 0.1, 0.5, status=199), True),
        (request(0, 0.1, None, status=200), True),
        (request(0), True),
    ],
)
def test_one_definition_of_a_failed_request_everywhere(row: dict[str, object], expected: bool) -> None:
    requests = table(row, SERVED)
    assert failed(requests).tolist() == [expected, False]
    assert outcomes(requests)["failed"].tolist() == [expected, False]
    assert observed(requests)["failed"].tolist() == [expected, False]
    params = LoadParams(arrival="constant", rate=1)
    assert load_record(requests.drop(columns="trace_id"), params).failed == int(expected)


def test_the_vocabulary_imports_no_stage() -> None:
    tree = ast.parse(Path(tasks.requests.__file__).read_text(encoding="utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert not [name for name in imported if name.startswith("tasks")]


def test_a_failed_request_counts_as_its_time_out_however_soon_it_failed() -> None:
    requests = table(SERVED, request(1, 1.1, 1.3, status=200, error="reset"), request(2, status=503), request(3))
    result = outcomes(requests, timeout_s=20)
    np.testing.assert_allclose(result["latency_s"], [0.5, 20, 20, 20])
    np.testing.assert_allclose(result["ttft_s"], [0.1, 0.1, 20, 20])


def test_without_a_time_out_it_counts_as_the_longest_time_seen() -> None:
    requests = table(SERVED, request(1, 1.5, 4.0, status=200), request(5, status=500), request(6, 7, 16, error="reset"))
    np.testing.assert_allclose(outcomes(requests)["latency_s"], [0.5, 3.0, 3.0, 10.0])


def test_a_failure_is_never_better_than_a_served_request() -> None:
    slow = request(0, 1, 25, sent=6, status=200)
    np.testing.assert_allclose(outcomes(table(slow, request(1, error="reset")), timeout_s=20)["latency_s"], [25, 25])


def seconds_of(ended: pd.Series) -> list[float]:
    return ((ended - T0).dt.total_seconds()).round(6).tolist()


@pytest.mark.parametrize(
    ("row", "without", "within"),
    [
        (request(4, 4.1, 4.5, status=200), 4.5, 4.5),
        (request(4, 4.1, 11, status=200), 11, 11),
        (request(4, sent=4.2, error="timeout"), 24.2, 24.2),
        (request(4, sent=4.2, error="ReadTimeout"), 24.2, 24.2),
        (request(4, sent=4.2, error="the request timed out"), 24.2, 24.2),
        (request(4, sent=4.2, status=504), 24.2, 24.2),
        (request(4), 24, 24),
        (request(4, 5, 9, sent=4.2, status=200, error="reset"), 9, 24.2),
        (request(4, sent=4.2, error="connection refused"), 4.2, 24.2),
        (request(12, sent=12.2, error="connection refused"), 12.2, 12.2),
        (request(4, 5, 14, sent=4.2, status=200, error="reset"), 14, 14),
    ],
)
def test_where_a_request_counts(row: dict[str, object], without: float, within: float) -> None:
    assert seconds_of(outcomes(table(row), 20)["ended"]) == [without]
    assert seconds_of(outcomes(table(row), 20, boundary=at(10))["ended"]) == [within]


def test_what_the_fault_did_never_counts_before_it() -> None:
    """Random requests, of which those open at the inject time or sent after it fail in random ways."""
    rng = np.random.default_rng(3)
    rows, inject = [], 30.0
    for scheduled in np.sort(rng.uniform(0, 60, 400)):
        latency = rng.exponential(0.5)
        if scheduled + latency < inject:
            rows.append(request(scheduled, scheduled + latency / 2, scheduled + latency, status=200))
        else:
            error = str(rng.choice(["timeout", "connection reset", "http 503", "stream ended early"]))
            seen = scheduled + latency / 2 if rng.random() < 0.5 else None
            rows.append(request(scheduled, seen, seen, sent=scheduled, error=error))
    requests = table(*rows)
    result = outcomes(requests, 20, boundary=at(inject))
    lost = result["failed"].to_numpy()
    assert lost.any()
    assert (result.loc[lost, "ended"] >= at(inject)).all()
    assert result.loc[lost, "latency_s"].min() > result.loc[~lost, "latency_s"].max()


@pytest.mark.parametrize(
    ("value", "expected"), [(20, 20.0), (0.5, 0.5), (0, None), (-1, None), (True, None), ("20", None), (np.nan, None)]
)
def test_the_time_out_of_a_load_profile(value: object, expected: float | None) -> None:
    assert time_out_s({"request_timeout_s": value}) == expected
    assert time_out_s({}) is None


def test_no_request_has_no_outcome() -> None:
    assert outcomes(table(), 20).empty
