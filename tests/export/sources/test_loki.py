from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.sources.http import RefusedError, SourceError
from tasks.export.sources.loki import LokiClient, access_log_entries, service_of_stream
from tasks.export.sources.placement import Placement, PodPlacement
from tests.export.emulators import LokiEmulator, Response, failing_first, json_response, serving

T0 = 1_760_000_000
START = datetime.fromtimestamp(T0, UTC)
END = START + timedelta(seconds=1000)
NS = 1_000_000_000
SELECTOR = '{namespace="rcarena"}'


def _labels(service: str, **further: str) -> dict[str, str]:
    return {"namespace": "rcarena", "service": service, **further}


def _all(client: LokiClient, selector: str = SELECTOR) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for stream in client.streams(selector, START, END):
        pages = list(client.pages(stream.selector, START, END))
        found[stream.selector] = [pair for p in pages for pair in zip(p.times_ns, p.lines, strict=True)]
    return found


@settings(deadline=None, max_examples=20)
@given(
    gaps=st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=3),
    texts=st.integers(1, 3),
    page=st.integers(7, 12),
)
def test_pages_have_every_line_once_in_order(gaps: list[list[int]], texts: int, page: int) -> None:
    """Many lines share a nanosecond, and equal lines come several times, but never a page full at one time."""
    streams = []
    for number, steps in enumerate(gaps):
        times, entries, at_once = T0 * NS, [], 0
        for i, step in enumerate(steps):
            at_once = 0 if step else at_once + 1
            if at_once > 5:
                step, at_once = 1, 0
            times += step
            entries.append((times, f"line {i % texts}"))
        streams.append((_labels("ray-head", stream=str(number)), entries))
    with serving(LokiEmulator(streams)) as url, LokiClient(url, page_lines=page) as client:
        found = _all(client)
        assert not client.problems
    for labels, entries in streams:
        got = next((v for k, v in found.items() if f'stream="{labels["stream"]}"' in k), [])
        assert [time_ns for time_ns, _ in got] == sorted(time_ns for time_ns, _ in entries)
        assert Counter(got) == Counter(entries)


def test_a_slow_stream_loses_nothing_beside_a_fast_one() -> None:
    fast = [(T0 * NS + i * 1000, f"fast {i}") for i in range(500)]
    slow = [(T0 * NS + i * 200_000, f"slow {i}") for i in range(3)]
    emulator = LokiEmulator([(_labels("a"), fast), (_labels("b"), slow)])
    with serving(emulator) as url, LokiClient(url, page_lines=100) as client:
        found = _all(client)
    assert sorted(map(len, found.values())) == [3, 500]
    assert len(emulator.queries) == 7, "five full pages and one more of the fast stream, one of the slow one"


def test_a_stream_is_not_read_again_with_one_that_has_more_labels() -> None:
    plain, more = [(T0 * NS, "plain")], [(T0 * NS, "more")]
    emulator = LokiEmulator([(_labels("a"), plain), (_labels("a", stream="stderr", file='a "b"\\c'), more)])
    with serving(emulator) as url, LokiClient(url) as client:
        assert sorted(map(tuple, _all(client).values())) == [tuple(more), tuple(plain)]


def test_more_lines_at_one_time_than_a_page_holds_are_reported_not_looped_over() -> None:
    entries = [(T0 * NS, f"x{i}") for i in range(20)] + [(T0 * NS + 5, "after")]
    with serving(LokiEmulator([(_labels("a"), entries)])) as url, LokiClient(url, page_lines=8) as client:
        (lines,) = _all(client).values()
        assert lines == [*entries[:8], entries[-1]]
        assert "more than 8 lines" in next(iter(client.problems))


def test_a_server_that_grants_smaller_pages_gets_them() -> None:
    entries = [(T0 * NS + i, str(i)) for i in range(100)]
    with serving(LokiEmulator([(_labels("a"), entries)], max_entries=30)) as url, LokiClient(url) as client:
        assert list(_all(client).values()) == [entries]


@pytest.mark.parametrize(
    "failure",
    [
        Response(b"slow down", 429, {"Retry-After": "0"}),
        Response(b"oops", 500),
        Response(b'{"status":"succ', 200, cut_after=5),
    ],
    ids=["429", "500", "truncated"],
)
def test_passing_failures_are_tried_again(failure: Response) -> None:
    entries = [(T0 * NS + i, str(i)) for i in range(10)]
    handle = failing_first(LokiEmulator([(_labels("a"), entries)]), [failure, failure])
    with serving(handle) as url, LokiClient(url, backoff_s=0.01) as client:
        assert list(_all(client).values()) == [entries]


def test_refusals_and_warnings_are_told() -> None:
    refused = failing_first(LokiEmulator([]), [Response(b"parse error at line 1", 400)] * 9)
    with serving(refused) as url, LokiClient(url) as client, pytest.raises(RefusedError, match="HTTP 400: parse error"):
        client.streams("{", START, END)
    warned = LokiEmulator([(_labels("a"), [(T0 * NS, "x")])], warnings=("partial\nresult",))
    with serving(warned) as url, LokiClient(url) as client:
        _all(client)
        assert list(client.problems) == ["Loki warns: partial result"]
    with (
        serving(lambda _: Response(b"<html>gone</html>")) as url,
        LokiClient(url) as client,
        pytest.raises(SourceError, match="a body that is not Loki's"),
    ):
        client.streams(SELECTOR, START, END)


def test_streams_are_told_by_label_or_pod() -> None:
    placement = Placement(("ray-head",), (PodPlacement("ray-head", "rcarena-x-head-1"),))
    assert service_of_stream({"app": "ray-head"}, placement) == "ray-head"
    assert service_of_stream({"pod": "rcarena-x-head-1", "job": "other"}, placement) == "ray-head"
    assert service_of_stream({"app": "kuberay"}, placement) is None


def test_access_log_comes_from_the_gateways_streams_alone() -> None:
    entry = '{"time":%s,"request_id":"","request_time":0.5,"status":200}'
    logged = [(T0 * NS + i * NS, entry % (T0 + i)) for i in range(30)]
    logged.insert(5, (T0 * NS + 4 * NS, "2026/01/01 00:00:00 [error] worker died"))
    emulator = LokiEmulator([(_labels("nginx-proxy"), logged), (_labels("ray-head"), logged[:3])])
    placement = Placement(("nginx-proxy", "ray-head"))
    with serving(emulator) as url, LokiClient(url, page_lines=8) as client:
        table = access_log_entries(client, SELECTOR, placement, "nginx-proxy", START, END)
        nobody = access_log_entries(client, SELECTOR, Placement(("x",)), "x", START, END)
    pd.testing.assert_series_equal(table["time"], pd.Series([T0 + i for i in range(30)], name="time"))
    assert nobody.empty


def _refusal(template: str, status: int = 400, json: bool = False) -> Any:
    def refuse(asked: int, granted: int) -> Response:
        text = template.format(asked=asked, granted=granted)
        said = {"code": status, "status": "error", "message": text}
        return json_response(said, status) if json else Response(text.encode(), status)

    return refuse


_LIMIT = "max entries limit per query exceeded, limit > max_entries_limit_per_query ({asked} > {granted})"
_REFUSALS = {
    "plain": _refusal(_LIMIT),
    "line end": _refusal(_LIMIT + "\n"),
    "JSON": _refusal(_LIMIT, json=True),
    "text behind the figure": _refusal(_LIMIT + ". Ask your administrator, ticket > 7."),
    "JSON, text behind": _refusal(_LIMIT + " for tenant 3", json=True),
    "older": _refusal("max entries limit per query exceeded, limit > max_entries_limit ({asked} > {granted})", 422),
    "no figure": _refusal("max entries limit exceeded"),
    "figures in words": _refusal("max_entries_limit: asked for {asked}, at most {granted} are given"),
    "another's figures": _refusal("max entries limit exceeded (9 > 1)"),
    "zero": _refusal("max entries limit exceeded ({asked} > 0)"),
    "by a gateway that hides it": _refusal(_LIMIT, 500),
}


@pytest.mark.parametrize("refusal", _REFUSALS)
@pytest.mark.parametrize("granted", [500, 64, pytest.param(7, marks=pytest.mark.slow)])
def test_however_the_page_size_is_refused_no_line_is_lost(refusal: str, granted: int) -> None:
    """Three lines share each nanosecond."""
    entries = [(T0 * NS + i // 3, f"line {i}") for i in range(500)]
    emulator = LokiEmulator([(_labels("a"), entries)], max_entries=granted, refusal=_REFUSALS[refusal])
    with serving(emulator) as url, LokiClient(url, backoff_s=0.01) as client:
        assert list(_all(client).values()) == [entries]
        assert not client.problems
    assert len(emulator.queries) <= 1000 / granted * 2 + 20


def test_a_page_size_of_one_that_is_refused_is_an_error() -> None:
    emulator = LokiEmulator([(_labels("a"), [(T0 * NS, "x")])], max_entries=0, refusal=_REFUSALS["no figure"])
    with serving(emulator) as url, LokiClient(url) as client, pytest.raises(SourceError, match="max entries limit"):
        _all(client)
    assert len(emulator.queries) < 20


@pytest.mark.parametrize(
    "too_long",
    [
        Response(b"the query time range exceeds the limit (query length: 1h0m0s, limit: 1m0s)", 400),
        json_response({"message": "the query would read too many bytes (query: 5GB, limit: 1GB); consider"}, 400),
        Response(b"rpc error: code = ResourceExhausted desc = grpc: received message larger than max (9 vs. 4)", 500),
        Response(b"request timed out, decrease the duration of the request or add more label matchers", 504),
        Response(b"context deadline exceeded", 504),
    ],
)
def test_what_is_too_much_at_once_is_asked_for_in_parts(too_long: Response) -> None:
    entries = [(T0 * NS + i * NS // 2, f"line {i}") for i in range(1500)]
    emulator = LokiEmulator([(_labels("a"), entries)], max_entries=40, longest_ns=70 * NS, too_long=too_long)
    with serving(emulator) as url, LokiClient(url, backoff_s=0.01) as client:
        assert list(_all(client).values()) == [entries]
        assert not client.problems


def test_a_busy_loki_is_waited_for() -> None:
    busy = Response(b"too many outstanding requests", 429)
    emulator = LokiEmulator([(_labels("a"), [(T0 * NS, "x")])], longest_ns=1, too_long=busy)
    with (
        serving(emulator) as url,
        LokiClient(url, backoff_s=0.01, retries=2) as client,
        pytest.raises(SourceError, match="no answer after retries: HTTP 429"),
    ):
        _all(client)
    assert len(emulator.queries) == 3


@pytest.mark.parametrize("third", [({"traceID": "1"},), ({},), ({"structuredMetadata": {"a": "b"}},)])
def test_structured_metadata_is_no_trouble(third: tuple[Any, ...]) -> None:
    entries = [(T0 * NS + i // 2, f"line {i}") for i in range(50)]
    with serving(LokiEmulator([(_labels("a"), entries)], third=third)) as url, LokiClient(url, page_lines=9) as client:
        assert list(_all(client).values()) == [entries]
        assert not client.problems


def test_lines_come_in_order_whatever_the_order_in_the_answer() -> None:
    values = [[str(T0 * NS + i), f"line {i}"] for i in (3, 0, 2, 1)]
    result = [{"stream": {"a": part}, "values": values[i::2]} for i, part in enumerate("xy")]
    answer = json_response({"status": "success", "data": {"resultType": "streams", "result": result}})
    with serving(lambda _: answer) as url, LokiClient(url) as client:
        (page,) = client.pages("{}", START, END)
    assert page.lines == ["line 0", "line 1", "line 2", "line 3"]


@pytest.mark.parametrize(
    "odd",
    [
        *(None, 5, [], ["soon", "x"], [None, "x"], [str(T0 * NS)], [str(T0 * NS), None], [str(T0 * NS), 5]),
        *(["9" * 30, "x"], ["1.5", "x"], [True, "x"], [str((T0 - 9) * NS), "too early"], {"ts": "1", "line": "x"}),
        ["1", "x", {}, 4],
    ],
)
def test_an_odd_line_is_counted_and_the_others_are_read(odd: Any) -> None:
    values = [[str(T0 * NS), "first"], odd, [str(T0 * NS + 1), "last"]]
    result = [{"stream": {"a": "b"}, "values": values}]
    answer = json_response({"status": "success", "data": {"resultType": "streams", "result": result}})
    with serving(lambda _: answer) as url, LokiClient(url) as client:
        (page,) = client.pages("{}", START, END)
        assert page.lines == ["first", "last"]
        assert len(client.left_out) == 1
        assert client.problems[0].startswith("Loki: left out 1 x a line")


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"resultType": "matrix", "result": []},
        {"resultType": "streams"},
        {"resultType": "streams", "result": None},
        {"resultType": "streams", "result": [None]},
        {"resultType": "streams", "result": [{"stream": {}}]},
        {"resultType": "streams", "result": [{"stream": {}, "values": None}]},
    ],
)
def test_any_odd_answer_is_one_line(data: Any) -> None:
    with (
        serving(lambda _: json_response({"status": "success", "data": data})) as url,
        LokiClient(url) as client,
        pytest.raises(SourceError, match="expected streams of lines") as caught,
    ):
        list(client.pages("{}", START, END))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["x", {}, [None], [5], [{"a": 1}], [{"a": None}]])
def test_odd_labels_are_one_line(data: Any) -> None:
    with (
        serving(lambda _: json_response({"status": "success", "data": data})) as url,
        LokiClient(url) as client,
        pytest.raises(SourceError, match="expected the labels of streams"),
    ):
        client.streams(SELECTOR, START, END)


def test_a_page_full_of_odd_lines_is_an_error_not_an_end() -> None:
    result = [{"stream": {}, "values": [[None, "x"]] * 5}]
    answer = json_response({"status": "success", "data": {"resultType": "streams", "result": result}})
    with (
        serving(lambda _: answer) as url,
        LokiClient(url, page_lines=5) as client,
        pytest.raises(SourceError, match="a page without a single line"),
    ):
        list(client.pages("{}", START, END))
