from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import REQUESTS
from tasks.errors import ParamsError
from tasks.load.run import LoadError, load_record, read_run, run_foreground
from tasks.load.spec import LoadSpec, read_spec, url_problem
from tasks.params import LoadParams
from tests.load.mock_server import MockServer

PARAMS = LoadParams(arrival="constant", rate=20, max_send_lag_ms=10)


def row(number: int, lag_ms: float = 1, error: str | None = None) -> dict[str, object]:
    scheduled = 1_800_000_000_000_000_000 + number * 1_000_000_000
    return {
        "request_id": f"r{number}",
        "trace_id": "t",
        "scheduled": scheduled,
        "sent": scheduled + round(lag_ms * 1e6),
        "first_token": None if error else scheduled + 30_000_001,
        "last_token": None if error else scheduled + 90_000_000,
        "tokens_in": None,
        "tokens_out": None if error else 16,
        "status": None if error else 200,
        "error": error,
    }


def write(file: Path, rows: list[dict[str, object]], tail: str = "") -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in rows) + tail)
    return file


def test_read_requests(tmp_path: Path) -> None:
    table = read_run(write(tmp_path / "out", [row(2), row(0, error="timeout"), row(1)])).requests
    assert table.schema == REQUESTS
    assert table.column("request_id").to_pylist() == ["r0", "r1", "r2"]
    assert table.column("first_token").cast("int64").to_pylist()[1] == row(1)["first_token"]
    assert table.column("error").to_pylist() == ["timeout", None, None]


def test_columns_without_a_single_value(tmp_path: Path) -> None:
    table = read_run(write(tmp_path / "out", [row(0, error="timeout")])).requests
    assert table.schema == REQUESTS
    assert table.column("status").null_count == 1


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "out", [row(0)], tail='{"request_id":"r1","sch')).requests.num_rows == 1


def test_empty_file(tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "out", [])).requests.schema == REQUESTS


@pytest.mark.parametrize("content", ["not json\n", '{"other": 1}\n'])
def test_not_the_output_of_the_generator(tmp_path: Path, content: str) -> None:
    file = tmp_path / "out"
    file.write_text(content)
    with pytest.raises(LoadError, match="not the output"):
        read_run(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        read_run(tmp_path / "none")


@pytest.mark.parametrize(("late_lag_ms", "verdict"), [(9, "on-schedule"), (500, "fell-behind")])
def test_load_record(tmp_path: Path, late_lag_ms: float, verdict: str) -> None:
    rows = [row(i) for i in range(90)] + [row(90 + i, lag_ms=late_lag_ms, error="http 503") for i in range(10)]
    table = read_run(write(tmp_path / "out", rows)).requests
    record = load_record(table, PARAMS)
    assert (record.requests, record.failed, record.verdict) == (100, 10, verdict)
    assert record.send_lag_p50_ms == pytest.approx(1)
    assert record.send_lag_p99_ms == pytest.approx(late_lag_ms)
    assert record.parameters == PARAMS.model_dump(mode="json")
    assert load_record(table.to_pandas(), PARAMS) == record


def test_load_record_of_requests_never_sent(tmp_path: Path) -> None:
    frame = read_run(write(tmp_path / "out", [row(0, error="interrupted"), row(1)])).requests.to_pandas()
    frame.loc[0, "sent"] = pd.NaT
    record = load_record(frame, PARAMS)
    assert (record.requests, record.failed, record.send_lag_p99_ms) == (2, 1, pytest.approx(1))


def test_load_record_of_nothing() -> None:
    record = load_record(REQUESTS.empty_table(), PARAMS)
    assert (record.requests, record.verdict, record.send_lag_p50_ms) == (0, "unknown", None)


@pytest.fixture
def server_url() -> Iterator[str]:
    """A mock server in a thread, for code that blocks."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    urls: list[str] = []
    stop = asyncio.Event()

    async def serve() -> None:
        async with MockServer().running() as server:
            urls.append(server.url)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    yield urls[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_run_foreground(server_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = LoadSpec(params=PARAMS, url=server_url, model="toy", duration_s=0.5, seed=1)
    run = run_foreground(spec, tmp_path / "out")
    assert run.requests.num_rows == 10
    assert set(run.requests.column("error").to_pylist()) == {None}
    assert not run.oddities
    assert "sent 10/10" in capfd.readouterr().err


def test_a_run_with_shapes_sends_what_they_say(server_url: str, tmp_path: Path) -> None:
    shapes = [
        {"kind": "surge", "start_s": -0.25, "duration_s": 0.5, "factor": 4},
        {"kind": "drop", "start_s": 0.25, "duration_s": 0.25, "factor": 0},
    ]
    params = LoadParams.model_validate({"arrival": "constant", "rate": 20, "shapes": shapes})
    spec = LoadSpec(params=params, url=server_url, model="toy", duration_s=1.5, seed=1, fault_start_s=0.5)
    requests = run_foreground(spec, tmp_path / "out").requests
    at_ns = requests.column("scheduled").cast("int64").to_numpy()
    counts, _ = np.histogram((at_ns - at_ns[0]) / 1e9 + 1e-6, bins=[0, 0.25, 0.75, 1, 1.5])
    assert counts.tolist() == [5, 40, 0, 10]
    record = load_record(requests, params)
    assert (record.requests, record.failed) == (55, 0)
    assert record.parameters["shapes"][0]["kind"] == "surge"


def test_a_trace_that_went_away_is_told(server_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n9,1,1\n")
    trace = {"file": str(tmp_path / "t.csv"), "format": "csv"}
    params = LoadParams.model_validate({"arrival": "trace", "rate": 1, "trace": trace})
    (tmp_path / "t.csv").unlink()
    spec = LoadSpec(params=params, url=server_url, model="toy", duration_s=0.5, seed=1)
    with pytest.raises(LoadError, match="exit status 2"):
        run_foreground(spec, tmp_path / "out")
    assert "load.trace.file" in capfd.readouterr().err


def test_run_foreground_tells_of_a_failure(tmp_path: Path) -> None:
    spec = LoadSpec(params=PARAMS, url="http://127.0.0.1:9", model="toy", duration_s=0.5, seed=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadError, match="exit status 1"):
        run_foreground(spec, tmp_path / "out")


def test_spec_survives_the_file(tmp_path: Path) -> None:
    spec = LoadSpec(params=PARAMS, url="http://[::1]:8000/v1", model="toy", duration_s=3, seed=1, start_at=1.5)
    spec.write(tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == spec


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "/v1/chat/completions"),
        ("http://h:8000/", "/v1/chat/completions"),
        ("http://h/v1", "/v1/chat/completions"),
        ("https://h/prefix/v1/", "/prefix/v1/chat/completions"),
        ("https://h/v1?api-version=1&x=a%20b?c", "/v1/chat/completions?api-version=1&x=a%20b?c"),
        ("https://h?x=1", "/v1/chat/completions?x=1"),
        ("https://h/v1?x=1#part", "/v1/chat/completions?x=1"),
        ("https://h/v1/chat/completions?x=1", "/v1/chat/completions?x=1"),
        ("https://h/deployments/d/chat/completions?x=1", "/deployments/d/chat/completions?x=1"),
        ("https://h/ä/v1?ö=ü", "/%C3%A4/v1/chat/completions?%C3%B6=%C3%BC"),
    ],
)
def test_target(url: str, target: str) -> None:
    assert LoadSpec(params=PARAMS, url=url, model="toy", duration_s=3, seed=1).target == target


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text("of an earlier run")
    file.chmod(0o644)
    LoadSpec(params=PARAMS, url="http://h?key=x", model="toy", duration_s=3, seed=1).write(file)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:8000", "ftp://h", "http://", "http://h:99999", "http://h:x", "http://a..b", "http://[::1"),
        *("http://h/\udcff", "http://h/v1 HTTP/1.1", "http://h/v1\r\nX: y", "http://ü.example", "http://h/\x7f"),
        f"http://{'a' * 70}.b",
    ],
)
def test_wrong_url(url: str) -> None:
    assert url_problem(url)
    with pytest.raises(ValueError, match="url"):
        LoadSpec(params=PARAMS, url=url, model="toy", duration_s=3, seed=1)


@pytest.mark.parametrize("userinfo", ["me:hunter2", "hunter2", ":hunter2", "me:hunter2@x", ""])
def test_credentials_in_the_url_are_refused_and_not_repeated(userinfo: str, tmp_path: Path) -> None:
    url = f"http://{userinfo}@h/v1"
    problem = url_problem(url)
    assert problem
    assert "user or password" in problem
    with pytest.raises(ValueError, match="user or password") as caught:
        LoadSpec(params=PARAMS, url=url, model="toy", duration_s=3, seed=1)
    assert "hunter2" not in f"{problem} {caught.value}"
    good = LoadSpec(params=PARAMS, url="http://h", model="toy", duration_s=3, seed=1).model_dump_json()
    (tmp_path / "spec.json").write_text(good.replace("http://h", url))
    with pytest.raises(ParamsError, match="user or password") as told:
        read_spec(tmp_path / "spec.json")
    assert "hunter2" not in str(told.value)


def test_wrong_spec_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"params": {"arrival": "often", "rate": 1}}')
    with pytest.raises(ParamsError) as caught:
        read_spec(tmp_path / "spec.json")
    assert any("params.arrival" in problem for problem in caught.value.problems)
    assert any("model: missing" in problem for problem in caught.value.problems)
