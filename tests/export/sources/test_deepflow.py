from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.case import SPANS, as_signal
from tasks.export.sources.deepflow import COLUMNS, DeepFlowClient, deepflow_calls, deepflow_spans
from tasks.export.sources.http import SourceError
from tasks.export.sources.placement import Placement, PodPlacement
from tests.export.emulators import DeepFlowEmulator, Response, failing_first, json_response, serving

T0 = 1_760_000_000
START = datetime.fromtimestamp(T0, UTC)
END = START + timedelta(seconds=40)
PLACEMENT = Placement(
    ("nginx-proxy", "ray-head", "ray-replicas-0"),
    (PodPlacement("ray-head", "head-1", address="10.0.0.2"), PodPlacement("ray-replicas-0", "worker-a")),
)


def _row(number: int, second: int, **changes: Any) -> dict[str, Any]:
    row = {
        "_id": number,
        "time": T0 + second,
        "start_time": (T0 + second) * 1_000_000 + number,
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "request_type": "POST",
        "request_resource": "/v1/chat/completions",
        "response_code": 200,
        "response_duration": 250_000,
        "pod_0": "nginx-proxy",
        "pod_1": "head-1",
        "pod_ns_1": "rcarena",
        "ip_0": "10.0.0.1",
        "ip_1": "10.0.0.2",
        "observation_point": "s-p",
        "l7_protocol_str": "HTTP",
    }
    return {**row, **changes}


@settings(deadline=None, max_examples=8)
@given(seconds=st.lists(st.integers(0, 6).map(lambda n: n * n), max_size=40), page=st.integers(1, 9))
def test_every_row_comes_once_whatever_the_page(seconds: list[int], page: int) -> None:
    """Also when a single second holds several pages."""
    rows = [_row(i, second) for i, second in enumerate(seconds)]
    with serving(DeepFlowEmulator(rows)) as url, DeepFlowClient(url, page_rows=page) as client:
        found = client.flows(START, END, "rcarena")
    assert sorted(found["_id"]) == list(range(len(rows)))


def test_requests_become_spans_of_who_answered_and_calls() -> None:
    rows = [
        _row(1, 1),
        _row(2, 2, observation_point="s"),
        _row(3, 3, pod_0="head-1", pod_1="worker-a", observation_point="s", trace_id="", span_id="", response_code=0),
        _row(4, 4, pod_0="", ip_0="10.9.9.9", pod_1="", response_code=503),
        _row(5, 5, pod_1="stranger", ip_1="10.7.7.7"),
        _row(6, 6, observation_point="c-p"),
        _row(7, 7, pod_ns_1="other"),
    ]
    with serving(DeepFlowEmulator(rows)) as url, DeepFlowClient(url) as client:
        flows = client.flows(START, END, "rcarena")
    assert deepflow_calls(flows, PLACEMENT) == (("nginx-proxy", "ray-head"), ("ray-head", "ray-replicas-0"))
    spans = deepflow_spans(flows, PLACEMENT)
    assert spans["service"].tolist() == ["ray-head", "ray-replicas-0", "ray-head"], "a card only where no process"
    first, second, third = (spans.iloc[i] for i in range(3))
    assert (first["trace_id"], first["parent_span_id"]) == ("ab" * 16, "cd" * 8)
    assert (first["operation"], first["status_code"], first["duration"]) == ("POST /v1/chat/completions", 200, 0.25)
    assert first["start"].value == (T0 + 1) * 10**9 + 1000
    assert len(second["trace_id"]) == 32
    assert second[["parent_span_id", "status_code"]].isna().all()
    assert third["status_code"] == 503
    assert spans["span_id"].is_unique
    assert deepflow_spans(DeepFlowClient.empty(), PLACEMENT).empty


def test_times_as_text_are_utc() -> None:
    rows = [_row(1, 1, start_time="2025-10-09 08:53:21.000250")]
    with serving(DeepFlowEmulator(rows)) as url, DeepFlowClient(url) as client:
        spans = deepflow_spans(client.flows(START, END, None), PLACEMENT)
    assert spans["start"][0].value == (T0 + 1) * 10**9 + 250_000


def test_failures() -> None:
    good = DeepFlowEmulator([_row(1, 1)])
    with serving(failing_first(good, [Response(b"", 502)])) as url, DeepFlowClient(url, backoff_s=0.01) as client:
        assert len(client.flows(START, END, "rcarena")) == 1
        with pytest.raises(SourceError, match="not a name that Kubernetes allows"):
            client.flows(START, END, "x' OR '1'='1")
    failed = json_response({"OPT_STATUS": "SERVER_ERROR", "DESCRIPTION": "table\nl7_flow_log not found"}, 400)
    for answer, message in ((failed, "table l7_flow_log not found"), (Response(b"<html>"), "is not DeepFlow's")):
        with (
            serving(lambda _, answer=answer: answer) as url,  # type: ignore[misc]
            DeepFlowClient(url) as client,
            pytest.raises(SourceError, match=message),
        ):
            client.flows(START, END, "rcarena")


ODD_TIMES = [None, "", "soon", 0, -5, 1e300, 10**30, "9" * 40]


@pytest.mark.parametrize("odd", ODD_TIMES)
def test_a_row_with_an_odd_start_is_counted_and_the_others_are_read(odd: Any) -> None:
    rows = [_row(1, 1), _row(2, 2, start_time=odd), _row(3, 3)]
    with serving(lambda _: _table(rows)) as url, DeepFlowClient(url) as client:
        flows = client.flows(START, END, None)
        assert flows["_id"].tolist() == [1, 3]
        assert client.left_out.problems == ["DeepFlow: left out 1 x a row whose start is no time"]
    assert len(deepflow_spans(flows, PLACEMENT)) == 2


@pytest.mark.parametrize("column", ["response_code", "response_duration", "trace_id", "request_type", "pod_1", "ip_0"])
@pytest.mark.parametrize("odd", [None, "", "x", -1, 1.5, 10**12, 10**30, True])
def test_odd_cells_cost_no_row(column: str, odd: Any) -> None:
    rows = [_row(1, 1), _row(2, 2, **{column: odd}), _row(3, 3)]
    with serving(lambda _: _table(rows)) as url, DeepFlowClient(url) as client:
        spans = deepflow_spans(client.flows(START, END, None), PLACEMENT)
    as_signal("spans", spans[SPANS.names])
    assert len(spans) == 3
    assert spans["duration"].between(0, 1e6).all()


def _table(rows: list[dict[str, Any]]) -> Response:
    values = [[row[column] for column in COLUMNS] for row in rows]
    return _answer({"columns": list(COLUMNS), "values": values})


def _answer(result: Any) -> Response:
    return Response(json.dumps({"OPT_STATUS": "SUCCESS", "DESCRIPTION": "", "result": result}).encode())


@pytest.mark.parametrize("odd", [None, 5, [], ["x"], {}, [[]] * len(COLUMNS), [{}] * len(COLUMNS)])
def test_rows_of_another_form_are_counted(odd: Any) -> None:
    good = [_row(1, 1)[column] for column in COLUMNS]
    with (
        serving(lambda _: _answer({"columns": list(COLUMNS), "values": [odd, good]})) as url,
        DeepFlowClient(url) as client,
    ):
        assert len(client.flows(START, END, None)) == 1
        assert client.left_out.problems == ["DeepFlow: left out 1 x a row of another form"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (5, "expected a table"),
        ([1], "expected a table"),
        ({"columns": "x", "values": []}, "expected a table"),
        ({"columns": list(COLUMNS), "values": "x"}, "expected a table"),
        ({"columns": list(COLUMNS)[1:], "values": []}, "without the column _id"),
    ],
)
def test_another_table_is_one_line(result: Any, message: str) -> None:
    with (
        serving(lambda _: _answer(result)) as url,
        DeepFlowClient(url) as client,
        pytest.raises(SourceError, match=message),
    ):
        client.flows(START, END, None)
