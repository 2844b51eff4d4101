from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.http import RefusedError, SourceError
from tasks.export.loki import LokiClient, access_log_entries, service_of_stream
from tasks.export.placement import Placement, PodPlacement
from tests.export.emulators import LokiEmulator, Response, failing_first, serving

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
