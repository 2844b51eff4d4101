from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tasks.case import SPANS, as_signal
from tasks.export.derived_metrics import calls_into_services, gateway_metrics, latency_metrics, windows_of
from tasks.export.sources.access_log import read_access_log
from tasks.export.sources.otlp import SpanFilter, SpanReader, span_frame
from tasks.export.sources.prometheus import TimeGrid
from tasks.export.sources.spans import read_spans
from tasks.spans import link_spans
from tasks.system.record_file import RecordFile

GATEWAY, HEAD = "nginx-proxy", "ray-head"
SERVICES = (GATEWAY, HEAD, "ray-replicas-0", "ray-replicas-1")
ANYTHING = SpanFilter({service: service for service in SERVICES})
T0 = 1_760_000_000.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"
REQUEST_ID = "00112233445566778899aabbccddeeff"


def _access_line(**changes: Any) -> str:
    entry = {
        "time": T0 + 1.0,
        "request_id": REQUEST_ID,
        "traceparent": f"00-{TRACE}-{CLIENT}-01",
        "method": "POST",
        "uri": "/v1/chat/completions",
        "status": 200,
        "request_time": 1.0,
        "upstream_addr": "10.0.0.2:8000",
        "upstream_connect_time": "0.001",
        "upstream_header_time": "0.200",
        "upstream_response_time": "0.990",
        "body_bytes_sent": 123,
        "request_length": 456,
    }
    return json.dumps({**entry, **changes}) + "\n"


class OtlpTrace:
    """Builds export requests, one per service."""

    def __init__(self) -> None:
        self.requests: dict[str, ExportTraceServiceRequest] = {}

    def add(
        self,
        service: str,
        name: str,
        span_id: str,
        parent: str,
        start: float,
        end: float,
        trace: str = TRACE,
        resource_key: str = "k8s.pod.name",
        error: bool = False,
        **attributes: Any,
    ) -> OtlpTrace:
        request = self.requests.setdefault(service, ExportTraceServiceRequest())
        if not request.resource_spans:
            resource = request.resource_spans.add()
            key = resource.resource.attributes.add(key=resource_key)
            key.value.string_value = service
            resource.scope_spans.add()
        span = (
            request.resource_spans[0]
            .scope_spans[0]
            .spans.add(
                name=name,
                trace_id=bytes.fromhex(trace),
                span_id=bytes.fromhex(span_id),
                parent_span_id=bytes.fromhex(parent),
                start_time_unix_nano=round((T0 + start) * 1000) * 1_000_000,
                end_time_unix_nano=round((T0 + end) * 1000) * 1_000_000,
                kind=Span.SPAN_KIND_SERVER,
                status=Status(code=Status.STATUS_CODE_ERROR) if error else None,
            )
        )
        for key, value in attributes.items():
            attribute = span.attributes.add(key=key.replace("__", "."))
            if isinstance(value, str):
                attribute.value.string_value = value
            elif isinstance(value, int):
                attribute.value.int_value = value
            else:
                attribute.value.double_value = value
        return self

    def write(self, path: Path) -> Path:
        spans = RecordFile(path, 2**24)
        for request in self.requests.values():
            # The receiver stamps arrival with the present; the window of these tests lies in the past.
            spans.append(request.SerializeToString())
        spans.close()
        return path


def _whole_trace() -> OtlpTrace:
    """What Ray Serve and vLLM send for one request: both ends name the client's span as their parent."""
    trace = OtlpTrace()
    trace.add(HEAD, "proxy_http_request POST /v1", "aa" * 8, CLIENT, 0.003, 0.990, http__status_code=200)
    trace.add(HEAD, "route_to_replica LLM", "bb" * 8, "aa" * 8, 0.004, 0.050)
    trace.add("ray-replicas-0", "replica_handle_request LLM", "cc" * 8, "bb" * 8, 0.030, 0.950)
    trace.add("ray-replicas-0", "llm_request", "dd" * 8, CLIENT, 0.040, 0.940, gen_ai__latency__time_in_queue=0.25)
    return trace


@pytest.fixture(autouse=True)
def _arrival_is_not_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.export.sources.spans.ARRIVAL_SLACK_S", 1e9)


def _read(tmp_path: Path, trace: OtlpTrace | None, access: str | None, length: float = 10, margin: float = 5) -> Any:
    log = None
    if access is not None:
        log = tmp_path / "access.log"
        log.write_text(access)
    return read_spans(
        otlp=[trace.write(tmp_path / "spans.otlp")] if trace else [],
        nginx_access_log=log,
        gateway=GATEWAY,
        services=SERVICES,
        start=datetime.fromtimestamp(T0, UTC),
        end=datetime.fromtimestamp(T0 + length, UTC),
        margin_s=margin,
    )


def _chain(spans: pd.DataFrame) -> list[str]:
    """Operations from the innermost span outwards."""
    parents = link_spans(spans).parent
    position = spans.index[spans["operation"].eq("llm_request")][0]
    chain = []
    while position >= 0:
        chain.append(spans["operation"][position])
        position = parents[position]
    return chain


def test_client_nginx_proxy_route_replica_engine_become_one_chain(tmp_path: Path) -> None:
    spans = _read(tmp_path, _whole_trace(), _access_line())
    assert _chain(spans) == [
        "llm_request",
        "replica_handle_request LLM",
        "route_to_replica LLM",
        "proxy_http_request POST /v1",
        "POST /v1/chat/completions",
    ]
    nginx = spans[spans["service"] == GATEWAY].iloc[0]
    assert (nginx["trace_id"], nginx["parent_span_id"]) == (TRACE, CLIENT)
    assert nginx["span_id"] == REQUEST_ID[-16:]
    assert nginx["start"] == pd.Timestamp(T0, unit="s", tz="UTC")
    assert nginx["duration"] == pytest.approx(1.0)
    assert spans.set_index("operation")["status_code"]["proxy_http_request POST /v1"] == 200
    engine = json.loads(spans.set_index("operation")["attributes"]["llm_request"])
    assert engine == {"gen_ai.latency.time_in_queue": 0.25, "span.kind": "server"}
    assert json.loads(nginx["attributes"])["nginx.upstream_response_time"] == "0.990"
    as_signal("spans", spans[SPANS.names])


def test_without_a_gateway_log_the_stack_keeps_its_own_parents(tmp_path: Path) -> None:
    spans = _read(tmp_path, _whole_trace(), None)
    assert spans.set_index("operation")["parent_span_id"]["proxy_http_request POST /v1"] == CLIENT


def test_two_requests_of_one_client_span_keep_their_own_gateway_span(tmp_path: Path) -> None:
    trace = _whole_trace().add(HEAD, "proxy_http_request POST /v2", "ab" * 8, CLIENT, 2.001, 2.5)
    access = _access_line() + _access_line(time=T0 + 2.6, request_time=0.6, request_id="f" * 32)
    spans = _read(tmp_path, trace, access).set_index("operation")
    assert spans["parent_span_id"]["proxy_http_request POST /v1"] == REQUEST_ID[-16:]
    assert spans["parent_span_id"]["proxy_http_request POST /v2"] == "f" * 16


def test_callers_see_the_whole_call_not_the_routing(tmp_path: Path) -> None:
    calls = calls_into_services(_read(tmp_path, _whole_trace(), _access_line())).set_index("service")
    assert calls["duration"].to_dict() == pytest.approx(
        {
            GATEWAY: 1.0,  # nobody above it: its own
            HEAD: 0.990,  # what nginx waited for its upstream
            "ray-replicas-0": 0.987,  # the proxy's span: route_to_replica ends before the replica does
        }
    )
    assert calls["caller"].fillna("").to_dict() == {GATEWAY: "", HEAD: GATEWAY, "ray-replicas-0": HEAD}


def test_own_span_counts_when_the_caller_is_not_known(tmp_path: Path) -> None:
    trace = OtlpTrace().add("ray-replicas-1", "replica_handle_request LLM", "cc" * 8, "bb" * 8, 0.1, 0.4)
    calls = calls_into_services(_read(tmp_path, trace, None))
    assert calls["duration"].tolist() == pytest.approx([0.3])
    assert calls["caller"].isna().all()


def test_only_spans_that_overlap_the_window_and_its_margin(tmp_path: Path) -> None:
    trace = OtlpTrace()
    for i, (start, end) in enumerate([(-9, -6), (-9, -4), (-9, 30), (14, 20), (16, 20)]):
        trace.add(HEAD, f"span{i}", f"{i:016x}", "", start, end)
    assert sorted(_read(tmp_path, trace, None)["operation"]) == ["span1", "span2", "span3"]


def test_spans_of_unknown_services_and_duplicates_are_left_out(tmp_path: Path) -> None:
    trace = _whole_trace().add("stranger", "x", "ee" * 8, "", 0, 1)
    trace.add(HEAD, "route_to_replica LLM", "bb" * 8, "aa" * 8, 0.004, 0.050)
    spans = _read(tmp_path, trace, None)
    assert set(spans["service"]) == {HEAD, "ray-replicas-0"}
    assert not spans.duplicated(["trace_id", "span_id"]).any()


@pytest.mark.parametrize("key", ["k8s.pod.name", "service.name", "host.name"])
def test_service_comes_from_any_of_the_resource_attributes(key: str) -> None:
    trace = OtlpTrace().add(HEAD, "x", "ee" * 8, "", 0, 1, resource_key=key, error=True)
    (request,) = trace.requests.values()
    spans = span_frame(SpanReader(ANYTHING, "OTLP").message_rows(request.SerializeToString()))
    assert spans["service"].tolist() == [HEAD]
    assert spans["status_code"].tolist() == [500]


def test_undecodable_request_is_skipped() -> None:
    good = OtlpTrace().add(HEAD, "x", "ee" * 8, "", 0, 1).requests[HEAD].SerializeToString()
    reader = SpanReader(ANYTHING, "OTLP")
    assert [len(list(reader.message_rows(message))) for message in (b"\xff\xff\xff", good)] == [0, 1]


def test_access_log_oddities(tmp_path: Path) -> None:
    access = (
        _access_line(upstream_response_time="0.100, 0.300", upstream_addr="a, b", status=502)
        + '{"time": 17600\n'
        + "not json\n"
        + _access_line(traceparent="", upstream_response_time="-", request_id="1" * 32, uri="/health?a=1")
        + _access_line(traceparent="garbage", request_id="-", status="000")
        + _access_line(request_id="2" * 32)[:-20]
    )
    spans = _read(tmp_path, None, access)
    assert len(spans) == 3
    by_status = spans.set_index("status_code")
    assert by_status["upstream_s"][502] == pytest.approx(0.4)
    assert by_status["trace_id"][200] == "1" * 32
    assert by_status["operation"][200] == "POST /health"
    assert pd.isna(by_status["upstream_s"][200])
    assert spans["parent_span_id"].isna().sum() == 2
    assert spans["span_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert spans["trace_id"].str.fullmatch("[0-9a-f]{32}").all()


def test_nothing_at_all(tmp_path: Path) -> None:
    spans = _read(tmp_path, None, "")
    assert spans.empty
    assert calls_into_services(spans).empty
    assert latency_metrics(calls_into_services(spans), TimeGrid(0, 1000, 5), 5).empty
    as_signal("spans", spans[SPANS.names])


def test_long_access_log_is_read_from_the_window_on(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("".join(_access_line(time=T0 + i, request_id=f"{i:032x}", request_time=0.5) for i in range(5000)))
    found = read_access_log(path, int((T0 + 4000) * 1e9), int((T0 + 4009.5) * 1e9))
    assert sorted(found["time"] - T0) == list(range(4000, 4011))


@settings(deadline=None)
@given(
    ends=st.lists(st.floats(-20, 80), min_size=1, max_size=40),
    step_ms=st.sampled_from([500, 1000, 3000]),
    window=st.sampled_from([1.0, 2.5, 5.0]),
)
def test_each_event_is_in_exactly_the_windows_that_cover_it(ends: list[float], step_ms: int, window: float) -> None:
    grid = TimeGrid(1_000_000_000_000, step_ms, 20)
    ends_ns = np.round(np.array(ends) * 1000).astype(np.int64) * 1_000_000 + grid.start_ms * 1_000_000
    event, step = windows_of(ends_ns, grid, window)
    got = set(zip(event.tolist(), step.tolist(), strict=True))
    times = grid.times_ns
    wanted = {
        (i, k) for i, end in enumerate(ends_ns) for k, t in enumerate(times) if t - round(window * 1e9) < end <= t
    }
    assert got == wanted


def test_latency_quantiles_and_gateway_rates(tmp_path: Path) -> None:
    access = "".join(
        _access_line(
            time=T0 + 2 + i / 100,
            request_id=f"{i:032x}",
            request_time=(i + 1) / 10,
            traceparent="",
            status=503 if i == 0 else 200,
        )
        for i in range(10)
    )
    spans = _read(tmp_path, None, access)
    grid = TimeGrid(int(T0 * 1000), 1000, 11)
    latency = latency_metrics(calls_into_services(spans), grid, 5.0)
    as_signal("metrics", latency)
    p50 = latency[latency["metric"] == "latency_p50"].set_index("time")["value"]
    assert len(p50) == 11
    assert p50.iloc[:2].isna().all()
    assert p50.iloc[3] == pytest.approx(0.55)
    assert p50.iloc[8:].isna().all()
    p90 = latency[latency["metric"] == "latency_p90"].set_index("time")["value"]
    assert p90.iloc[3] == pytest.approx(0.91)
    rates = gateway_metrics(spans, GATEWAY, grid, 5.0).pivot(index="time", columns="metric", values="value")
    assert rates["request_rate"].tolist() == pytest.approx([0, 0, 0.2, 2, 2, 2, 2, 1.8, 0, 0, 0])
    assert rates["error_rate"].tolist() == pytest.approx([0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0, 0, 0])


@pytest.mark.parametrize("odd", ["503.5", '"OK"', "99999999999", "true", "null", '"200, 200"', "[]"])
def test_an_odd_status_of_the_access_log_is_no_status(tmp_path: Path, odd: str) -> None:
    line = _access_line(status=1).replace('"status": 1', f'"status": {odd}')
    assert pd.isna(_read(tmp_path, None, line)["status_code"].iloc[0])


@pytest.mark.parametrize(
    "key", ["request_id", "traceparent", "method", "uri", "upstream_response_time", "request_time"]
)
@pytest.mark.parametrize("odd", [None, 5, True, "", [], {"a": 1}, "\ud83d"])
def test_an_odd_entry_of_the_access_log_is_still_a_span(tmp_path: Path, key: str, odd: Any) -> None:
    lines = _access_line(**{key: odd}) + _access_line(request_id="ab" * 16, time=T0 + 2)
    spans = _read(tmp_path, None, lines)
    as_signal("spans", spans[SPANS.names])
    assert "ab" * 8 in set(spans["span_id"])


@pytest.mark.parametrize("odd", [0, -5, 1e30, "9" * 40, "", "soon", None, T0 * 1000])
def test_an_entry_with_an_odd_time_hides_no_other(tmp_path: Path, odd: Any) -> None:
    """Also where the start of the window is looked for by bisection."""
    before = "".join(_access_line(time=T0 - 4000 + i, request_id=f"{i:032x}") for i in range(1000))
    inside = "".join(_access_line(time=T0 + i / 100, request_id=f"{i + 5000:032x}") for i in range(1, 900))
    file = tmp_path / "access.log"
    expected: int | None = None
    for text in (before + inside, *(before + inside[: len(inside) * k // 8] for k in range(1, 8))):
        cut = text[: text.rfind("\n") + 1]
        rest = (before + inside)[len(cut) :]
        file.write_text(cut + (_access_line(time=odd) if expected is not None else "") + rest)
        found = read_access_log(file, int(T0 * 1e9), int((T0 + 10) * 1e9))
        expected = len(found) if expected is None else expected
        assert len(found) == expected == 899
