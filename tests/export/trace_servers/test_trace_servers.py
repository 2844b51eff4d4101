"""Spans of a live stack, from servers that answer as Tempo and Jaeger do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.case import CaseWriter, Service, Stack
from tasks.export import trace_servers
from tasks.export.base import ExportContext, ExportError, TelemetrySources
from tasks.export.exporter import export_case
from tasks.export.sources import trace_server
from tasks.export.sources.http import HttpAccess, SecretSource, SourceError
from tasks.export.sources.otlp import SpanFilter, span_frame
from tasks.export.sources.trace_server import PARTS, TRACE_SERVERS, SearchServer, parts_of
from tasks.export.trace_servers.tempo import queries_of
from tasks.left_out import LeftOut
from tasks.params import ExportParams
from tests.export.emulators import Response, failing_first, json_response, serving
from tests.export.trace_servers.emulators import NS, JaegerEmulator, Span, TempoEmulator

T0 = 1_760_000_000
WINDOW_S = 160
NAMES = {"router": "router", "llama-x1": "llama-0", "llama-x2": "llama-1"}
WANTED = SpanFilter(NAMES, T0 * NS, (T0 + WINDOW_S) * NS)
EMULATORS: dict[str, Any] = {"tempo": TempoEmulator, "jaeger": JaegerEmulator}
both = pytest.mark.parametrize("kind", EMULATORS)


def traces(count: int, length_s: float = WINDOW_S) -> list[Span]:
    """The router calls one of two engines, which are called the same and told by their pods."""
    found = []
    for number in range(1, count + 1):
        at = T0 * 1000 + int(1000 * length_s * number / (count + 1))
        pod = {"k8s.pod.name": f"llama-x{1 + number % 2}"}
        engine = {"gen_ai.latency.e2e": 0.25, "gen_ai.usage.completion_tokens": 16}
        found += [
            Span(number, 2 * number, "router", at, 120, attributes={"http.status_code": 200}),
            Span(number, 2 * number + 1, "vllm", at + 5, 110, 2 * number, pod, engine, failed=number == 3),
        ]
    return found


def read(kind: str, handle: Any, wanted: SpanFilter = WANTED, **more: Any) -> tuple[pd.DataFrame, LeftOut]:
    left_out = LeftOut()
    with serving(handle) as url, TRACE_SERVERS.get(kind)(url, backoff_s=0.01, retries=1, **more) as server:
        frame = span_frame(server.rows(wanted, left_out)).drop_duplicates(["trace_id", "span_id"])
    return frame.sort_values(["start", "span_id"], ignore_index=True), left_out


def test_the_names_of_parameters_are_those_that_are_registered() -> None:
    assert trace_servers.names() == TRACE_SERVERS.names()


@both
def test_every_span_of_the_window_once(kind: str) -> None:
    emulator = EMULATORS[kind](traces(40))
    found, left_out = read(kind, emulator)
    assert (len(found), left_out.problems, len(left_out)) == (80, [], 0)
    assert found["service"].value_counts().to_dict() == {"router": 40, "llama-0": 20, "llama-1": 20}
    engine = found[found["service"].ne("router")].iloc[2]
    assert (engine["trace_id"], engine["span_id"], engine["parent_span_id"]) == (f"{3:032x}", f"{7:016x}", f"{6:016x}")
    assert (engine["duration"], engine["status_code"], engine["operation"]) == (0.11, 500, "llm_request")
    attributes = json.loads(engine["attributes"])
    assert attributes["gen_ai.latency.e2e"] == 0.25
    assert (attributes["span.kind"], attributes["status.message"]) == ("server", "aborted")
    assert found["status_code"].tolist()[0] == 200
    assert len(emulator.queries) == PARTS * (1 if kind == "tempo" else 2)


def test_both_say_the_same() -> None:
    first, second = (read(kind, EMULATORS[kind](traces(10)))[0] for kind in EMULATORS)
    plain = ["trace_id", "span_id", "parent_span_id", "service", "operation", "start", "duration", "status_code"]
    pd.testing.assert_frame_equal(first[plain], second[plain])


@both
def test_what_is_beyond_the_limit_is_left_out_all_over_the_window_and_told(kind: str) -> None:
    found, left_out = read(kind, EMULATORS[kind](traces(320)), limit=80)
    (problem,) = left_out.problems
    assert f"more traces than deploy.traces.limit (80) in {PARTS} of {PARTS} parts" in problem
    part = ((found["start"].astype("int64") / NS - T0) // (WINDOW_S / PARTS)).astype(int)
    # Of each part the first five, and what began in the part before.
    assert found.groupby(part)["trace_id"].nunique().between(4, 6).all()
    assert set(part) == set(range(PARTS))


def test_a_sample_of_traces_gives_latencies_and_no_rates() -> None:
    start = datetime.fromtimestamp(T0, UTC)
    services = (Service(name="router", role="gateway"), Service(name="llama-0", role="replica"))
    derived = {}
    with serving(TempoEmulator(traces(64))) as url:
        for limit in (64, 2000):
            sources = TelemetrySources(spans_url=url, spans_kind="tempo", spans_limit=limit, spans_names=NAMES)
            window, params = (start, start + timedelta(seconds=WINDOW_S)), ExportParams(step_s=5, rate_window_s=20)
            stack = Stack(backend="attached", services=services)
            derived[limit] = ExportContext(sources, *window, params, stack).derived
    assert ("latency_p90", "llama-0") in derived[64]
    assert derived[2000] - derived[64] == {("request_rate", "router"), ("error_rate", "router")}


@both
def test_a_slow_server_costs_gaps_all_over_the_window(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(trace_server.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(trace_server, "LONGEST_READ_S", 90 if kind == "tempo" else 20)  # readings of the clock
    found, left_out = read(kind, EMULATORS[kind](traces(160)))
    assert any("slow: " in problem and "parts of the window were not read" in problem for problem in left_out.problems)
    seconds = found["start"].astype("int64") / NS - T0
    assert (seconds.min() < WINDOW_S / 4, seconds.max() > WINDOW_S / 2) == (True, True)


def test_parts_are_read_all_over_the_window() -> None:
    parts = parts_of(WANTED, 2000)
    assert sorted(part.from_ns for part in parts) == [T0 * NS + (WINDOW_S * NS + 1) * i // PARTS for i in range(PARTS)]
    assert [(part.from_ns // NS - T0) // 10 for part in parts[:4]] == [0, 8, 4, 12]
    assert len(parts_of(SpanFilter({}, 0, 3 * NS), 2000)) == 3
    (short,) = parts_of(SpanFilter({}, 5, 6), 7)
    assert (short.from_ns, short.to_ns, short.limit) == (5, 6, 7)


@both
def test_services_are_asked_for_as_told_or_by_name(kind: str) -> None:
    spans = [*traces(3), *(Span(100 + i, 1000 + i, f"other-{i}", T0 * 1000 + 50) for i in range(30))]
    handle = EMULATORS[kind](spans)
    assert set(read(kind, handle)[0]["trace_id"]) == {f"{i:032x}" for i in (1, 2, 3)}, "by the router alone"
    assert set(read(kind, handle, services=("other-7",))[0]["service"]) == {"other-7"}
    found, left_out = read(kind, handle, SpanFilter({"x": "x"}, WANTED.from_ns, WANTED.to_ns))
    assert found.empty
    (problem,) = left_out.problems
    assert "none of its 32 services has the name of a service of the stack: give deploy.traces.services" in problem
    with serving(handle) as url, TRACE_SERVERS.get(kind)(url) as server:
        assert server.look(WANTED) == (True, "1 of 32 services: router")
    with serving(handle) as url, TRACE_SERVERS.get(kind)(url, services=("gone",)) as server:
        there, text = server.look(WANTED)
        assert (there, text.startswith("no spans of gone; it has ")) == (False, True)
    with serving(EMULATORS[kind]([])) as url, TRACE_SERVERS.get(kind)(url) as server:
        assert server.look(WANTED) == (False, "no service has sent a span")


@both
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Response(b"", 401), "HTTP 401: the bearer token in "),
        (Response(b"<html>Grafana</html>"), "a body that is not (Tempo|Jaeger)'s: '<html>Grafana</html>'"),
        (Response(b"404 page not found", 404), "HTTP 404 for /api/.*: 404 page not found"),
        (json_response({"status": "success"}), "a body that is not (Tempo|Jaeger)'s"),
        (json_response({"tagValues": 5, "data": 5}), "no list|a body that is not"),
        (Response(b"upstream\nis away", 502), "no answer after retries: HTTP 502"),
        (Response(b"invalid TraceQL\nquery", 400), "HTTP 400 for /api/.*: invalid TraceQL query"),
    ],
)
def test_what_cannot_be_read_is_one_line(kind: str, answer: Response, problem: str, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("hunter2")
    access = HttpAccess(token=SecretSource(file=tmp_path / "token"))
    with pytest.raises(SourceError, match=problem) as caught:
        read(kind, lambda _: answer, access=access)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@both
def test_passing_failures_are_tried_again(kind: str) -> None:
    handle = failing_first(EMULATORS[kind](traces(5)), [Response(b"", 503)])
    assert len(read(kind, handle)[0]) == 10


def test_traces_that_tempo_does_not_give_are_counted() -> None:
    emulator = TempoEmulator(traces(10), gone=frozenset({2}), too_large=frozenset({4, 5}))
    found, left_out = read("tempo", emulator)
    assert found["trace_id"].nunique() == 7
    assert left_out.problems == [
        "Tempo: left out 1 x a trace that is not there any more",
        "Tempo: left out 2 x a trace that it does not give (trace exceeds max size (max bytes: 5000000))",
    ]


def test_a_trace_that_tempo_cannot_read_is_counted_and_makes_a_sample() -> None:
    found, left_out = read("tempo", TempoEmulator(traces(6), broken=frozenset({2})))
    assert found["trace_id"].nunique() == 5
    assert left_out.sampled
    assert left_out.problems == ["Tempo: left out 1 x a trace that it does not give (no answer after retries)"]


def test_a_tempo_that_gives_no_trace_at_all_fails() -> None:
    with pytest.raises(SourceError, match="boom"):
        read("tempo", TempoEmulator(traces(6), broken=frozenset(range(7))))


def test_queries_of_many_services_fit_into_a_url() -> None:
    names = [f"service-{i}.of.a-long-name" for i in range(500)]
    queries = queries_of(names)
    assert 1 < len(queries) < 20
    assert all(len(query) < 4000 for query in queries)
    assert queries_of([]) == []
    assert queries_of(['a.b"c']) == [r'{ resource.service.name =~ "a\\.b\"c" }']


@pytest.mark.parametrize(
    "odd",
    [
        *(5, None, {}, {"startTime": "soon", "duration": 1}, {"startTime": 5, "duration": -1}),
        {"startTime": (T0 + 1) * 10**6, "duration": 9 * 10**18, "traceID": "1", "spanID": "1"},
        {"startTime": (T0 + 1) * 10**6, "duration": 1, "traceID": "z", "spanID": "1"},
        {"startTime": (T0 + 1) * 10**6, "duration": 1, "traceID": "1", "spanID": 5, "references": 5, "tags": {"a": 1}},
    ],
)
def test_an_odd_span_of_jaeger_is_counted_and_the_others_are_read(odd: Any) -> None:
    emulator = JaegerEmulator(traces(1))
    trace = emulator._trace(1)
    trace["spans"].insert(1, odd)
    answer = json_response({"data": [trace, 7, {"spans": []}]})
    found, left_out = read("jaeger", lambda request: answer if request.path == "/api/traces" else emulator(request))
    assert len(found) == 2
    assert len(left_out) >= 3


def test_what_a_diagnosis_forgives_a_campaign_does_not(tmp_path: Path) -> None:
    away = "http://127.0.0.1:9"
    sources = TelemetrySources(
        spans_url=away, spans_kind="tempo", loki_url=away, loki_selector="{}", retries=0, settle_s=0
    )
    start = datetime.fromtimestamp(T0, UTC)
    stack = Stack(backend="attached", services=(Service(name="router", role="gateway"),))
    asked = (sources, (start, start + timedelta(seconds=30)), ExportParams(), stack, ("logs", "spans"))
    with CaseWriter(tmp_path, "c") as writer:
        found = export_case(writer, *asked, forgiving=True)
        with pytest.raises(ExportError, match="no answer after retries"):
            export_case(writer, *asked)
    assert {signal: each.status for signal, each in found.items()} == {"logs": "missing", "spans": "missing"}
    assert all("no answer after retries" in each.reason for each in found.values())


@both
def test_what_no_time_was_left_for_in_a_part_makes_it_a_sample(kind: str) -> None:
    left_out = LeftOut()
    part = parts_of(WANTED, 100)[0]
    with serving(EMULATORS[kind](traces(50))) as url, TRACE_SERVERS.get(kind)(url) as server:
        assert isinstance(server, SearchServer)
        assert list(server.part_rows(part, ["router", "vllm"], WANTED, set(), 0.0, left_out)) == []
    assert left_out.sampled
