from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.load.generator import Generator, Progress, main
from tasks.load.run import read_run, start_generator
from tasks.load.spec import LoadSpec
from tasks.params import LoadParams
from tests.load.mock_server import MockServer
from tests.waiting import HANG_S

RATE, SECONDS = 40, 0.25
COUNT = round(RATE * SECONDS)


def spec_for(url: str, *, duration_s: float = SECONDS, start_at: float | None = None, **params: Any) -> LoadSpec:
    load = LoadParams(**{"arrival": "constant", "rate": RATE, **params})
    return LoadSpec(params=load, url=url, model="toy", duration_s=duration_s, seed=3, start_at=start_at)


def drive(server: MockServer, out: Path, **spec: Any) -> pd.DataFrame:
    """Run the generator against the mock server, both in one event loop."""

    async def scenario() -> None:
        async with server.running():
            await Generator(spec_for(server.url, **spec), out).run()

    asyncio.run(scenario())
    return read_run(out).requests.to_pandas()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_rows_of_a_good_run(out: Path, endpoint: str) -> None:
    server = MockServer()
    before = pd.Timestamp(time.time_ns(), tz="UTC")
    rows = drive(server, out, endpoint=endpoint)
    after = pd.Timestamp(time.time_ns(), tz="UTC")
    assert len(rows) == COUNT
    assert rows["error"].isna().all()
    assert (rows["status"] == 200).all()
    assert (rows["tokens_in"] == 7).all()
    assert (rows["tokens_out"] == 11).all()
    times = [rows[name] for name in ("scheduled", "sent", "first_token", "last_token")]
    assert all((earlier <= later).all() for earlier, later in itertools.pairwise(times))
    margin = pd.Timedelta("1s")  # the wall clock may be slewed meanwhile
    assert times[0].min() > before - margin
    assert times[-1].max() < after + margin
    assert (rows["scheduled"].diff().dropna() == pd.Timedelta(seconds=1 / RATE)).all()


def test_what_the_server_is_sent(out: Path) -> None:
    server = MockServer()
    rows = drive(server, out, prompt_tokens={"mean": 9}, output_tokens={"mean": 21})
    seen = {received.headers["x-request-id"]: received for received in server.requests}
    assert set(seen) == set(rows["request_id"])
    for row in rows.itertuples():
        received = seen[row.request_id]
        version, trace_id, span_id, flags = received.headers["traceparent"].split("-")
        assert (version, trace_id, len(span_id), flags) == ("00", row.trace_id, 16, "01")
        assert received.request_line == "POST /v1/chat/completions HTTP/1.1"
        assert received.headers["host"] == server.url.removeprefix("http://")
        assert len(received.body["messages"][0]["content"].split()) == 9
        assert received.body["max_tokens"] == 21
    assert rows["trace_id"].nunique() == COUNT


def test_same_seed_same_prompts(out: Path) -> None:
    first, second = MockServer(), MockServer()
    drive(first, out)
    drive(second, out)
    bodies = [sorted(json.dumps(received.body) for received in server.requests) for server in (first, second)]
    assert bodies[0] == bodies[1]


def test_requests_leave_while_no_earlier_one_returned(out: Path) -> None:
    rows = drive(MockServer(answer_when_seen=COUNT), out)
    assert len(rows) == COUNT
    assert rows["error"].isna().all()


@pytest.mark.parametrize("ending", ["connection-close", "idle-close"])
def test_a_server_that_closes_after_each_response(out: Path, ending: str) -> None:
    server = MockServer(ending=ending, break_after=-1)
    rows = drive(server, out)
    assert rows["error"].isna().all()
    assert server.connections == COUNT


def test_usage_not_sent(out: Path) -> None:
    rows = drive(MockServer(usage=False), out)
    assert rows["tokens_in"].isna().all()
    assert (rows["tokens_out"] == 3).all()


@pytest.mark.parametrize(
    ("server", "error", "tokens_out"),
    [
        ({"ending": "reset", "break_after": 2}, "connection reset", 2),
        ({"ending": "close", "break_after": 1}, "stream ended early", 1),
        ({"ending": "close", "break_after": -1}, "connection closed without response", None),
        ({"ending": "no-done"}, "stream ended early", 11),
        ({"ending": "error-event", "break_after": 1}, "error in stream", 11),
        ({"ending": "stall", "break_after": 2}, "timeout", 2),
        ({"status": 503}, "http 503", None),
        ({"texts": ("", "")}, "stream without text", 11),
        ({"content_type": "application/json"}, "response is not an event stream", 11),
    ],
)
def test_failures_are_recorded(out: Path, server: dict[str, Any], error: str, tokens_out: int | None) -> None:
    rows = drive(MockServer(**server), out, request_timeout_s=0.5 if error == "timeout" else 60)
    assert len(rows) == COUNT
    assert set(rows["error"]) == {error}
    assert set(rows["tokens_out"].astype("Int32").fillna(-1)) == {-1 if tokens_out is None else tokens_out}
    had_text = server.get("break_after", 3) > 0 and "texts" not in server and "status" not in server
    assert rows["first_token"].notna().all() == had_text
    expected_status = {503} if "status" in server else {-1} if tokens_out is None else {200}
    assert set(rows["status"].astype("Int32").fillna(-1)) == expected_status


def test_dead_server_is_recorded(out: Path) -> None:
    asyncio.run(Generator(spec_for(f"http://127.0.0.1:{unused_port()}"), out).run())
    rows = read_run(out).requests.to_pandas()
    assert len(rows) == COUNT
    assert set(rows["error"]) == {"connection refused"}
    assert rows["sent"].notna().all()


def test_unknown_host_is_recorded(out: Path) -> None:
    asyncio.run(Generator(spec_for("http://no-such-host.invalid", duration_s=0.05), out).run())
    assert set(read_run(out).requests.to_pandas()["error"]) == {"host not found"}


def test_server_that_accepts_and_never_reads(out: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        asyncio.run(Generator(spec_for(url, request_timeout_s=0.3), out).run())
    rows = read_run(out).requests.to_pandas()
    assert len(rows) == COUNT
    assert set(rows["error"]) == {"timeout"}


def test_start_at(out: Path) -> None:
    start_at = time.time() + 1.5
    rows = drive(MockServer(), out, start_at=start_at)
    assert rows["scheduled"].min() == pd.Timestamp(round(start_at * 1e9), tz="UTC")


def test_start_time_that_has_passed(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    start_at = time.time() - SECONDS / 2
    rows = drive(MockServer(), out, start_at=start_at)
    assert rows["scheduled"].min() == pd.Timestamp(round(start_at * 1e9), tz="UTC")
    assert len(rows) == COUNT
    late = rows["sent"] - rows["scheduled"] > pd.Timedelta("10ms")
    assert late.iloc[: COUNT // 4].all()
    assert "had passed" in caplog.text


def test_progress(out: Path) -> None:
    seen: list[Progress] = []

    async def scenario() -> None:
        async with MockServer(status=503).running() as server:
            await Generator(spec_for(server.url), out, seen.append).run()

    asyncio.run(scenario())
    last = seen[-1]
    assert (last.total, last.sent, last.finished, last.failed, last.open) == (COUNT, COUNT, COUNT, COUNT, 0)


def test_an_output_that_cannot_be_written_ends_the_run(out: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        drive(MockServer(), full)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_keeps_the_rows(out: Path, number: signal.Signals) -> None:
    async def scenario() -> int:
        async with MockServer(ending="stall", break_after=1).running() as server:
            process = start_generator(spec_for(server.url, duration_s=600), out)
            try:
                while len(server.requests) < 5:
                    await asyncio.sleep(0.01)
                process.send_signal(number)
                return await asyncio.to_thread(process.wait, HANG_S)
            finally:
                process.kill()

    assert asyncio.run(scenario()) == 0
    rows = read_run(out).requests.to_pandas()
    assert len(rows) >= 5
    assert set(rows["error"]) == {"interrupted"}


def test_sigkill_keeps_the_rows_flushed_before(out: Path) -> None:
    async def scenario() -> None:
        async with MockServer().running() as server:
            process = start_generator(spec_for(server.url, duration_s=600), out)
            try:
                while not out.exists() or not out.stat().st_size:
                    assert process.poll() is None
                    await asyncio.sleep(0.01)
            finally:
                process.kill()
                process.wait()

    asyncio.run(scenario())
    assert read_run(out).requests.num_rows > 0


def test_it_ends_with_its_parent(out: Path) -> None:
    """The process that started the generator dies; the pipe they share closes when the generator has ended too."""
    spec = spec_for(f"http://127.0.0.1:{unused_port()}", duration_s=600)
    spec_file = out.with_suffix(".json")
    spec.write(spec_file)
    code = f"""
import os, time
from pathlib import Path
from tasks.load.run import start_generator
from tasks.load.spec import read_spec
out = Path({str(out)!r})
start_generator(read_spec(Path({str(spec_file)!r})), out)
while not out.exists():
    time.sleep(0.01)
os._exit(0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_S, cwd=Path.cwd())
    assert result.returncode == 0, result.stderr


def test_parent_that_does_not_exist(out: Path, tmp_path: Path) -> None:
    spec_file = tmp_path / "spec.json"
    spec_for("http://127.0.0.1:9").write(spec_file)
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert main([str(spec_file), str(out), "--parent", str(gone.pid)]) == 1


def test_main_and_progress_line(out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec_file = tmp_path / "spec.json"
    spec_for(f"http://127.0.0.1:{unused_port()}").write(spec_file)
    assert main([str(spec_file), str(out), "--progress"]) == 0
    assert f"sent {COUNT}/{COUNT}, open 0, failed {COUNT}\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "spec.json"), ("{}", "params: missing"), ('{"url": "ftp://x"}', "url: must be http://HOST")],
)
def test_wrong_specification(tmp_path: Path, content: str, complaint: str, caplog: pytest.LogCaptureFixture) -> None:
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(content)
    assert main([str(spec_file), str(tmp_path / "out")]) == 2
    assert complaint in caplog.text


def test_missing_specification(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path / "none.json"), str(tmp_path / "out")]) == 2
    assert "cannot be read: No such file" in caplog.text


def test_output_directory_that_does_not_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec_file = tmp_path / "spec.json"
    spec_for("http://127.0.0.1:9").write(spec_file)
    assert main([str(spec_file), str(tmp_path / "none" / "out")]) == 1
    assert str(tmp_path / "none" / "out") in caplog.text


@pytest.fixture(autouse=True)
def same_limits() -> Any:
    """``main`` raises the limit of open files of its process, here the test's."""
    import resource

    before, priority = resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority
