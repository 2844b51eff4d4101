from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson
import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.case import METRICS
from tasks.export.sources.http import HttpAccess, HttpClient, RefusedError, SecretSource, SourceError
from tasks.export.sources.matrix import Series
from tasks.export.sources.prometheus import PrometheusClient, TimeGrid, metrics_table
from tests.export.emulators import PrometheusEmulator, Request, Response, json_response, serving
from tests.waiting import until

T0 = 1_760_000_000
START = datetime.fromtimestamp(T0, UTC)


def _grid(steps: int, step_ms: int = 1000) -> TimeGrid:
    return TimeGrid(T0 * 1000, step_ms, steps)


def _body(values: list[list[Any]], labels: dict[str, str] | None = None) -> bytes:
    result = [{"metric": labels or {"service": "a"}, "values": values}]
    return orjson.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def _answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Callable[..., None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _truncated(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"status"')
    handler.close_connection = True


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def _slow(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    handler.close_connection = True


GOOD = _answer(_body([[T0, "1.5"], [T0 + 1, "NaN"]]))


@pytest.mark.parametrize(
    "failure",
    [
        _answer(b"", 429, {"Retry-After": "0"}),
        _answer(b"broken", 500),
        _answer(b"", 503),
        _truncated,
        _hang_up,
        _slow,
    ],
    ids=["429", "500", "503", "truncated", "hang-up", "slow"],
)
def test_passing_failures_are_tried_again(scripted_server: Any, failure: Callable[..., None]) -> None:
    url, paths = scripted_server([failure, failure, GOOD])
    with PrometheusClient(url, timeout_s=0.5, backoff_s=0.01) as client:
        chunks = list(client.query_range("x", _grid(2)))
    assert len(paths) == 3
    np.testing.assert_array_equal(chunks[0][0].values, [1.5, math.nan])


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (_answer(b"", 500), "no answer after retries: HTTP 500"),
        (_truncated, "no answer after retries: ProtocolError"),
        (_answer(b"<html>"), "HTTP 200 with a body that is not Prometheus's"),
        (_answer(orjson.dumps({"status": "error", "error": "parse error"}), 400), "HTTP 400: parse error .query: x"),
        (_answer(orjson.dumps({"status": "success", "data": {"resultType": "vector"}})), "expected a matrix"),
        (_answer(orjson.dumps([1])), "HTTP 200 with a body"),
    ],
)
def test_lasting_failures_are_one_clear_error(scripted_server: Any, failure: Any, message: str) -> None:
    url, _ = scripted_server([failure])
    with (
        PrometheusClient(url, timeout_s=0.5, retries=2, backoff_s=0.01) as client,
        pytest.raises(SourceError, match=message) as caught,
    ):
        list(client.query_range("x", _grid(2)))
    assert "\n" not in str(caught.value)


def test_nothing_listens() -> None:
    with (
        PrometheusClient("http://127.0.0.1:1", retries=1, backoff_s=0.01) as client,
        pytest.raises(SourceError, match=r"127\.0\.0\.1:1: no answer after retries"),
    ):
        list(client.query_range("x", _grid(2)))


def _echo_grid(series: int) -> tuple[Callable[..., None], list[dict[str, str]]]:
    asked: list[dict[str, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        fields = {key: values[0] for key, values in parse_qs(urlsplit(handler.path).query).items()}
        asked.append(fields)
        assert handler.headers["Accept-Encoding"] == "identity"
        start, end, step = (float(fields[key]) for key in ("start", "end", "step"))
        times = [start + i * step for i in range(round((end - start) / step) + 1)]
        assert len(times) <= 11_000
        result = [{"metric": {"service": f"s{i}"}, "values": [[t, str(t)] for t in times]} for i in range(series)]
        _answer(orjson.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}))(handler)

    return answer, asked


@pytest.mark.parametrize(("series", "steps"), [(1, 25_000), (300, 1500)])
def test_long_windows_are_split_without_loss_or_overlap(scripted_server: Any, series: int, steps: int) -> None:
    answer, asked = _echo_grid(series)
    url, _ = scripted_server([answer])
    with PrometheusClient(url) as client:
        chunks = list(client.query_range("x", _grid(steps)))
    assert len(asked) > 1
    for i in (0, series - 1):
        times = np.concatenate([chunk[i].times_ns for chunk in chunks])
        np.testing.assert_array_equal(times, _grid(steps).times_ns)
        np.testing.assert_allclose(np.concatenate([chunk[i].values for chunk in chunks]), times / 1e9)
    assert all(sum(len(s.values) for s in chunk) <= 200_000 for chunk in chunks)


@settings(deadline=None)
@given(
    step=st.sampled_from([0.5, 1.0, 2.5, 0.7]), length=st.floats(0, 10_000), first=st.floats(0, 2e9, allow_nan=False)
)
def test_grid_stays_inside_the_window_and_fills_it(step: float, length: float, first: float) -> None:
    start = datetime.fromtimestamp(first, UTC)
    end = start + timedelta(seconds=length)
    grid = TimeGrid.between(start, end, step)
    assert abs(grid.start_ms - start.timestamp() * 1000) < 1.01
    assert grid.end_ms <= end.timestamp() * 1000 + 0.01
    assert grid.end_ms + grid.step_ms > end.timestamp() * 1000 - 1.01
    assert len(grid.times_ns) == grid.steps


def test_grid_refuses_a_window_that_ends_before_it_starts() -> None:
    with pytest.raises(ValueError, match="is before start"):
        TimeGrid.between(START, START - timedelta(seconds=1), 1)


def test_table_keeps_nan_and_infinity() -> None:
    times = np.array([1, 2, 3], dtype=np.int64) * 1_000_000_000
    table = metrics_table([Series({"service": "a"}, times, np.array([1.0, np.nan, np.inf]))], "m", "s", "test")
    assert table.schema.equals(METRICS)
    assert table.column("value").null_count == 0
    np.testing.assert_array_equal(table.column("value").to_numpy(), [1.0, np.nan, np.inf])
    assert metrics_table([], "m", "s", "test").num_rows == 0


def test_real_prometheus_values_gaps_nan_and_chunks(start_prometheus: Callable[..., str]) -> None:
    lines = ["# TYPE gauge gauge"]
    lines += [f'gauge{{service="a"}} {i if i % 10 else "NaN"} {T0 + i}' for i in range(1500) if not 300 <= i < 900]
    url = start_prometheus("\n".join(lines) + "\n")
    with PrometheusClient(url) as client:
        chunks = list(client.query_range("last_over_time(gauge[900ms])", _grid(1500)))
        everything = list(client.query_range("last_over_time(gauge[900ms])", _grid(30_000)))
        with pytest.raises(SourceError, match="HTTP 400"):
            list(client.query_range("gauge[", _grid(2)))
    times = np.concatenate([chunk[0].times_ns for chunk in chunks])
    values = np.concatenate([chunk[0].values for chunk in chunks])
    present = np.array([i for i in range(1500) if not 300 <= i < 900])
    np.testing.assert_array_equal(times, (T0 + present) * 1_000_000_000)
    np.testing.assert_array_equal(values, np.where(present % 10, present, np.nan))
    assert sum(len(chunk[0].values) for chunk in everything) == len(present)


class _Target:
    """A scrape target that can be switched off."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _answer(b"# TYPE alive gauge\nalive 1\n", 200, {"Content-Type": "text/plain; version=0.0.4"})(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_dead_target_has_no_sample_although_the_look_back_is_minutes(start_prometheus: Callable[..., str]) -> None:
    target = _Target()
    config = f"""
scrape_configs:
- job_name: cgroup
  scrape_interval: 200ms
  scrape_timeout: 200ms
  static_configs: [{{targets: ["127.0.0.1:{target.port}"], labels: {{service: a}}}}]
"""
    try:
        url = start_prometheus(config=config)
        with PrometheusClient(url) as client:

            def alive() -> bool:
                now = datetime.now(UTC)
                return any(client.query_range("alive", TimeGrid.between(now, now, 1)))

            until(alive)
            target.stop()
            until(lambda: not alive())
    finally:
        target.stop()


def _error(kind: str, text: str, status: int) -> Callable[..., None]:
    return _answer(orjson.dumps({"status": "error", "errorType": kind, "error": text}), status)


@pytest.mark.parametrize(
    "refusal",
    [
        _error("timeout", "query timed out in expression evaluation", 503),
        _error("execution", "query processing would load too many samples into memory in query execution", 422),
    ],
    ids=["time-out", "too many samples"],
)
def test_what_is_too_much_at_once_is_asked_in_parts(scripted_server: Any, refusal: Callable[..., None]) -> None:
    answer, asked = _echo_grid(2)

    def reluctant(handler: BaseHTTPRequestHandler) -> None:
        fields = parse_qs(urlsplit(handler.path).query)
        steps = float(fields["end"][0]) - float(fields["start"][0]) + 1
        (answer if steps <= 80 else refusal)(handler)

    url, paths = scripted_server([reluctant])
    with PrometheusClient(url, backoff_s=0.01) as client:
        chunks = list(client.query_range("x", _grid(1000)))
    np.testing.assert_array_equal(np.concatenate([chunk[1].times_ns for chunk in chunks]), _grid(1000).times_ns)
    assert len(paths) - len(asked) == 2, "what was too much is not tried again"


def test_too_much_for_a_single_step_is_an_error(scripted_server: Any) -> None:
    url, paths = scripted_server([_error("timeout", "query timed out", 503)])
    with PrometheusClient(url) as client, pytest.raises(SourceError, match=r"HTTP 503: query timed out .query: x"):
        list(client.query_range("x", _grid(9)))
    assert len(paths) == 4


def test_refused_queries_are_told_from_failures(scripted_server: Any) -> None:
    text = "found duplicate series for the match group\non the right hand-side"
    url, paths = scripted_server([_error("execution", text, 422)])
    with PrometheusClient(url) as client, pytest.raises(RefusedError, match="group on the right") as caught:
        list(client.query_range("x", _grid(9)))
    assert len(paths) == 1
    assert "\n" not in str(caught.value)


def test_partial_data_is_kept_and_its_warnings_too(scripted_server: Any) -> None:
    document = orjson.loads(_body([[T0, "1.5"]]))
    url, _ = scripted_server([_answer(orjson.dumps({**document, "warnings": ["store\n10.0.0.7 is down"]}))])
    with PrometheusClient(url) as client:
        assert len(list(client.query_range("x", _grid(2)))) == 1
        list(client.query_range("y", _grid(2)))
        assert list(client.warnings) == ["store 10.0.0.7 is down"]


def test_expired_token_names_its_file_and_not_the_token(scripted_server: Any, tmp_path: Any) -> None:
    seen: list[str] = []

    def guarded(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        (GOOD if seen[-1] == "Bearer new-secret" else _answer(b"Unauthorized", 401))(handler)

    url, paths = scripted_server([guarded])
    file = tmp_path / "token"
    file.write_text("old-secret\n")
    access = HttpAccess(token=SecretSource(file=file), tenant="me")
    with PrometheusClient(url, access=access) as client:
        with pytest.raises(SourceError, match=f"HTTP 401: the bearer token in {file} is refused") as caught:
            list(client.query_range("x", _grid(2)))
        assert "secret" not in f"{caught.value} {access} {access!r}"
        file.write_text("new-secret\n")
        assert len(list(client.query_range("x", _grid(2)))) == 1, "a rotated token is read again"
    assert len(paths) == 2
    with PrometheusClient(url) as client, pytest.raises(SourceError, match="no bearer token file is set"):
        list(client.query_range("x", _grid(2)))
    file.write_text("")
    for broken, message in ((file, "is empty"), (tmp_path / "nowhere", "No such file or directory")):
        with (
            PrometheusClient(url, access=HttpAccess(token=SecretSource(file=broken))) as client,
            pytest.raises(SourceError, match=f"bearer token file {broken}: {message}"),
        ):
            list(client.query_range("x", _grid(2)))
    with pytest.raises(SourceError, match=r"CA file .*nowhere.pem: does not exist"):
        PrometheusClient(url, access=HttpAccess(ca_file=tmp_path / "nowhere.pem"))


def test_long_queries_are_posted(start_prometheus: Callable[..., str]) -> None:
    url = start_prometheus(f"# TYPE gauge gauge\ngauge 1 {T0}\n")
    long = " or ".join(f'gauge{{pod="{i}"}}' for i in range(400)) + " or gauge"
    with PrometheusClient(url) as client:
        assert len(list(client.query_range(long, _grid(2)))) == 1
        assert client.series_names(T0 - 10, T0 + 10) == {"gauge"}


def _seconds(_: dict[str, str], ms: int) -> float:
    return ms / 1000 - T0


def _matrix(url: str, grid: TimeGrid, **connection: Any) -> tuple[np.ndarray, PrometheusClient]:
    """Value at each step, NaN where there is none."""
    row = np.full(grid.steps, np.nan)
    with PrometheusClient(url, **connection) as client:
        for chunk in client.query_range("x", grid):
            for item in chunk:
                row[(item.times_ns // 1_000_000 - grid.start_ms) // grid.step_ms] = item.values
    return row, client


@pytest.mark.parametrize("aligned", ["never", "for its cache", "always"])
@pytest.mark.parametrize("shift_ms", [0, 1, 1300, 2500, 4000, 4999])
@pytest.mark.parametrize("limit", [11_000, 40, 7])
def test_servers_that_move_the_asked_times(aligned: str, shift_ms: int, limit: int) -> None:
    """Each step has a value of at most half a step away, the last one too, and the parts make what the whole does."""
    text = b"too many points for the given start=1, end=2 and step=5000: 300; the maximum number of points is 7"
    emulator = PrometheusEmulator(_seconds, aligned=aligned, limit=limit, refusal=Response(text, 422))
    grid = TimeGrid(T0 * 1000 + shift_ms, 5000, 113)
    with serving(emulator) as url:
        row, client = _matrix(url, grid)
    at = (grid.times_ns / 1e9) - T0
    moved = shift_ms % 5000 if aligned == "always" else 0
    expected = at - moved / 1000 if moved <= 2500 else at - moved / 1000 + 5
    np.testing.assert_allclose(row, expected, atol=1e-6)
    assert not client.problems
    assert len(client.notes) == (1 if moved else 0)


def _said(kind: str, error: str) -> str:
    return orjson.dumps({"status": "error", "errorType": kind, "error": error}).decode()


_LIMITS = {
    "Prometheus": (
        400,
        _said("bad_data", "exceeded maximum resolution of 11,000 points per timeseries. Try (?step=XX)"),
    ),
    "Prometheus, samples": (422, _said("execution", "query processing would load too many samples into memory")),
    "VictoriaMetrics": (
        422,
        _said("422", "too many points for the given start=1, end=2 and step=1: 3; the maximum is 2"),
    ),
    "VictoriaMetrics, samples": (422, _said("422", "cannot select more than -search.maxSamplesPerQuery=5 samples")),
    "VictoriaMetrics, series": (
        422,
        _said("422", "the number of matching timeseries exceeds 3; narrow down the search"),
    ),
    "VictoriaMetrics, time": (503, _said("503", "timeout exceeded during query execution: 30.000 seconds")),
    "Mimir": (
        422,
        _said("execution", "the query exceeded the maximum number of chunks (err-mimir-max-chunks-per-query)"),
    ),
    "Mimir, plain text": (422, "the total query time range exceeds the limit (query length: 1h0m0s, limit: 1m0s)."),
    "Cortex": (422, _said("execution", "the query hit the max number of chunks limit while fetching chunks")),
    "Thanos": (422, _said("execution", "expanding series: exceeded samples limit: limit 10 violated (got 12)")),
    "Thanos, gRPC": (500, _said("internal", "rpc error: desc = grpc: received message larger than max (9 vs. 4)")),
    "a proxy": (413, "Request Entity Too Large: the answer exceeds 1 MB"),
}


@pytest.mark.parametrize("server", _LIMITS)
def test_limits_of_every_server_are_met_in_parts(server: str) -> None:
    status, text = _LIMITS[server]
    emulator = PrometheusEmulator(_seconds, limit=70, refusal=Response(text.encode(), status))
    grid = _grid(500)
    with serving(emulator) as url:
        row, _ = _matrix(url, grid, backoff_s=0.01)
    np.testing.assert_allclose(row, grid.times_ns / 1e9 - T0)
    assert len(emulator.asked) <= 500 / 35 + 4


@pytest.mark.parametrize(
    "refusal",
    [
        _said("bad_data", 'invalid parameter "query": 1:5: parse error: unexpected end'),
        _said("422", 'error when executing query="http_timeout_total{": cannot parse it'),
        "bad query, in plain text",
    ],
)
def test_a_query_that_is_wrong_is_asked_once(refusal: str) -> None:
    emulator = PrometheusEmulator(_seconds, limit=0, refusal=Response(refusal.encode(), 422))
    with serving(emulator) as url, pytest.raises(RefusedError):
        _matrix(url, _grid(500), backoff_s=0.01)
    assert len(emulator.asked) == 1


def test_a_limit_that_no_part_meets_is_a_refusal_of_that_query() -> None:
    text = b'{"status":"error","error":"the number of matching timeseries exceeds 3"}'
    emulator = PrometheusEmulator(_seconds, limit=0, refusal=Response(text, 422))
    with serving(emulator) as url, pytest.raises(RefusedError, match="timeseries exceeds 3"):
        _matrix(url, _grid(500), backoff_s=0.01)
    assert len(emulator.asked) < 12


def test_a_busy_server_is_waited_for_not_asked_for_less() -> None:
    busy = Response(b'{"status":"error","error":"too many outstanding requests"}', 429)
    emulator = PrometheusEmulator(_seconds, limit=70, refusal=busy)
    with serving(emulator) as url, pytest.raises(SourceError, match="no answer after retries: HTTP 429"):
        _matrix(url, _grid(500), backoff_s=0.01, retries=2)
    assert len(emulator.asked) == 3


@pytest.mark.parametrize("prefix", ["/prometheus", "/select/0/prometheus", "/select/multitenant/prometheus/"])
def test_path_prefix_tenant_and_parameters_of_the_url(prefix: str) -> None:
    emulator = PrometheusEmulator(_seconds, prefix=prefix.rstrip("/"), tenant="team-a")
    with serving(emulator) as url:
        row, _ = _matrix(f"{url}{prefix}?dedup=false", _grid(3), access=HttpAccess(tenant="team-a"), lookback_s=15)
        with pytest.raises(SourceError, match="HTTP 401"):
            _matrix(f"{url}{prefix}", _grid(3), access=HttpAccess(tenant="team-b"))
        with pytest.raises(SourceError, match="HTTP 404"):
            _matrix(f"{url}/elsewhere", _grid(3), access=HttpAccess(tenant="team-a"))
    np.testing.assert_allclose(row, [0, 1, 2])
    asked = emulator.asked[0]
    assert asked["dedup"] == "false"
    assert (asked["lookback_delta"], asked["max_lookback"]) == ("15s", "15s")
    assert (asked["nocache"], asked["latency_offset"]) == ("1", "1ms")


@pytest.mark.parametrize(
    ("further", "problems", "notes"),
    [
        ({"warnings": ["store is down", "store is down"]}, ["Prometheus warns: store is down"], []),
        ({"warnings": "one text"}, ["Prometheus warns: one text"], []),
        ({"warnings": None, "infos": None, "isPartial": False}, [], []),
        ({"isPartial": True}, ["Prometheus warns: an answer is partial (isPartial)"], []),
        ({"infos": ["PromQL info: no counter\nx"]}, [], ["Prometheus informs: PromQL info: no counter x"]),
    ],
)
def test_partial_answers_are_said(further: dict[str, Any], problems: list[str], notes: list[str]) -> None:
    with serving(PrometheusEmulator(_seconds, further=further)) as url:
        row, client = _matrix(url, _grid(3))
    assert len(row) == 3
    assert (client.problems, client.notes) == (problems, notes)


def _answers(data: Any) -> Response:
    return json_response({"status": "success", "data": data})


def _matrix_of(*series: Any) -> Response:
    return _answers({"resultType": "matrix", "result": list(series)})


_GOOD_SERIES = {"metric": {"service": "a"}, "values": [[T0, "1"]]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_answers(None), "expected a matrix, got no data"),
        (json_response({"status": "success"}), "expected a matrix, got no data"),
        (_answers([]), "expected a matrix"),
        (_answers("matrix"), "expected a matrix"),
        (_answers({"resultType": "vector", "result": []}), "expected a matrix, got vector"),
        (_answers({"resultType": ["matrix"], "result": []}), "expected a matrix"),
        (_answers({"resultType": "matrix"}), "its result is absent or null"),
        (_answers({"resultType": "matrix", "result": None}), "its result is absent or null"),
        (_answers({"resultType": "matrix", "result": {}}), "its result is of type dict"),
        (_matrix_of(None), "a series is absent or null"),
        (_matrix_of(_GOOD_SERIES, {"metric": {}}), "samples of a series are absent"),
        (_matrix_of({"metric": {}, "values": None}), "samples of a series are absent"),
        (_matrix_of({"metric": {}, "values": 0}), "samples of a series are a number"),
        (
            _matrix_of(_GOOD_SERIES, {"metric": {}, "values": 0}),
            "samples of a series are a number",
        ),
        (_matrix_of({"values": [[T0, "1"]]}), "labels of a series are absent"),
        (_matrix_of({"metric": {"a": 1}, "values": []}), "a label of a series is no"),
        (json_response({"status": "error", "error": None}), "HTTP 200"),
        (json_response({"status": "error", "errorType": "internal", "error": "boom\nboom"}), "HTTP 200: boom boom"),
        (json_response({"status": None}), "HTTP 200"),
        (Response(b"<html><body>Sign in</body></html>"), "a body that is not Prometheus's"),
        (Response(b"<html>400</html>", 400), "a body that is not Prometheus's"),
        (Response(_body([[T0, "1"], [T0 + 1, "2"]])[:-12]), "not Prometheus's"),
        (Response(b""), "not Prometheus's"),
        (Response(b'"success"'), "not Prometheus's"),
        (Response(b"[" * 100_000), "not Prometheus's"),
    ],
)
def test_any_odd_answer_is_one_line(answer: Response, message: str) -> None:
    with serving(lambda _: answer) as url, pytest.raises(SourceError, match=message) as caught:
        _matrix(url, _grid(2))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "expected", "left_out"),
    [
        ([[str(T0), "1"], [str(T0 + 1), "2"]], [1, 2], 0),
        ([[float(T0), 1.5], [T0 + 1.0004, 2]], [1.5, 2], 0),
        ([[T0 + 1, "2"], [T0, "1"], [T0 + 1, "2"]], [1, 2], 0),
        ([[T0, None], [T0 + 1, "2"]], [math.nan, 2], 1),
        ([[T0, "one"], [T0 + 1, "2"]], [math.nan, 2], 1),
        ([[T0, ""], [T0 + 1, "+Inf"]], [math.nan, math.inf], 1),
        ([[T0, True], [T0 + 1, "2"]], [math.nan, 2], 1),
        ([None, [T0], [T0, "1", "9"], [T0 + 1, "2"], {}], [math.nan, 2], 4),
        ([["soon", "1"], [T0 + 1, "-Inf"]], [math.nan, -math.inf], 1),
        ([["NaN", "1"], [1e300, "1"], ["-Inf", "1"], [T0 + 1, "2"]], [math.nan, 2], 3),
        ([[T0 - 100, "7"], [T0 + 100, "8"], [T0, "1"]], [1, math.nan], 2),
        ([[T0, "1,5"], [T0 + 1, "2"]], [math.nan, 2], 1),
    ],
)
def test_odd_samples_are_counted_and_left_out(values: list[Any], expected: list[float], left_out: int) -> None:
    result = [{"metric": {"service": "a"}, "values": values}]
    with serving(lambda _: _answers({"resultType": "matrix", "result": result})) as url:
        row, client = _matrix(url, _grid(2))
    np.testing.assert_array_equal(row, expected)
    assert sum(int(line.split("left out ")[1].split(" x")[0]) for line in client.problems) == left_out


def test_native_histograms_are_said() -> None:
    histogram = {"count": "1", "sum": "1", "buckets": [[0, "1", "2", "1"]]}
    result = [{"metric": {"service": "b"}, "histograms": [[T0, histogram]]}, _GOOD_SERIES]
    with serving(lambda _: _answers({"resultType": "matrix", "result": result})) as url:
        row, client = _matrix(url, _grid(2))
    np.testing.assert_array_equal(row, [1, math.nan])
    assert client.problems == ["Prometheus: left out 1 x a series of native histograms, which are not supported"]


@pytest.mark.parametrize("data", [None, {}, "x", [1], [None]])
def test_names_of_series_of_another_form(data: Any) -> None:
    with (
        serving(lambda _: _answers(data)) as url,
        PrometheusClient(url) as client,
        pytest.raises(SourceError, match="expected a list of names"),
    ):
        client.series_names(0, 1)


def test_a_login_in_the_url_is_sent_and_never_told() -> None:
    seen: list[str] = []

    def guarded(request: Request) -> Response:
        seen.append({k.lower(): v for k, v in request.headers.items()}.get("authorization", ""))
        return Response(b"no", 500)

    with serving(guarded) as url:
        with_login = url.replace("://", "://me:p%40ss@")
        with pytest.raises(SourceError) as caught:
            _matrix(with_login, _grid(2), retries=0)
    assert seen == ["Basic " + base64.b64encode(b"me:p@ss").decode()]
    assert "p%40ss" not in str(caught.value)
    assert "p@ss" not in str(caught.value)


@pytest.mark.parametrize(("start_ms", "moved_ms"), [(0, 0), (2300, 2300), (4100, 900)])
def test_a_real_prometheus_behind_a_frontend_that_moves_times(
    start_prometheus: Callable[..., str], start_ms: int, moved_ms: int
) -> None:
    """Prometheus's own limit of 11,000 points is met, too: the grid is longer."""
    lines = ["# TYPE x gauge", *(f'x{{service="a"}} {i} {T0 + i}' for i in range(0, 70_000, 10))]
    real = start_prometheus("\n".join(lines) + "\n", lookback="11s")
    pool = urllib3.PoolManager()

    def moving(request: Request) -> Response:
        fields = {key: values[0] for key, values in request.fields.items()}
        for key in ("start", "end"):
            fields[key] = str(float(fields[key]) // 5 * 5)
        answer = pool.request("GET", f"{real}{request.path}", fields=fields)
        return Response(answer.data, answer.status)

    grid = TimeGrid(T0 * 1000 + start_ms, 5000, 13_000)
    with serving(moving) as url:
        row, client = _matrix(url, grid)
    direct, _ = _matrix(real, grid)
    assert np.isfinite(direct).all()
    assert np.isfinite(row).all()
    at = grid.times_ns / 1e9 - T0
    assert (at - direct).max() < 10
    assert np.abs(row - (at - (at % 10))).max() <= 10
    assert client.notes == (
        [f"Prometheus answers at times of its own, up to {moved_ms} ms from the asked ones; the nearest are taken"]
        if moved_ms
        else []
    )
    if not moved_ms:
        np.testing.assert_array_equal(row, direct)


def test_secret_headers_follow_no_redirect_to_another_host(tmp_path: Any) -> None:
    secret = tmp_path / "key"
    secret.write_text("S3CRET")
    got: list[Request] = []

    def there(request: Request) -> Response:
        got.append(request)
        return Response(b"{}")

    access = HttpAccess(tenant="S3CRET", further={"X-Api-Key": SecretSource(file=secret)})
    with serving(there) as other, serving(lambda _: Response(b"", 302, {"Location": other})) as url:
        HttpClient(url, access=access, retries=0).request("/", {})
    assert got
    assert "S3CRET" not in str(dict(got[0].headers))
