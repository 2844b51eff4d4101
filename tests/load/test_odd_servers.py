"""Whole exchanges with servers that end, frame or encode their answers in odd ways."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.connection import Exchange
from tasks.load.generator import Generator
from tasks.load.run import Run, load_record, read_run
from tasks.load.spec import LoadSpec
from tasks.load.stream import BAD_UTF8, HALF_PAIR, NO_NUMBER, ODD_USAGE
from tasks.params import LoadParams

COUNT = 4
EVENT_STREAM = b"Content-Type: text/event-stream\r\n"
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
ENDLESS = b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"
NOT_GZIP = "body is not what its content-encoding says"
WHOLE = TEXT + FINISH + USAGE + DONE


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def answer(*chunks: bytes, head: bytes = EVENT_STREAM, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*chunks) + end


class RawServer:
    """Answers each request with the same bytes, then ``keep``s the connection, ``close``s or ``reset``s it."""

    def __init__(self, response: bytes, then: str = "keep") -> None:
        self.response, self.then = response, then
        self.connections = 0
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0]))
                writer.write(self.response)
                await writer.drain()
                if self.then == "reset":
                    await asyncio.sleep(0.02)
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                if self.then != "keep":
                    break
        writer.close()


def drive(server: RawServer, out: Path, **params: Any) -> Run:
    async def scenario() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1?version=1"
        load = LoadParams(**{"arrival": "constant", "rate": 40, **params})
        await Generator(LoadSpec(params=load, url=url, model="toy", duration_s=COUNT / load.rate, seed=3), out).run()
        listening.close()

    asyncio.run(scenario())
    return read_run(out)


def errors(run: Run) -> set[str | None]:
    assert run.requests.num_rows == COUNT
    return set(run.requests.column("error").to_pylist())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.mark.parametrize(
    ("response", "then"),
    [
        (answer(WHOLE), "keep"),
        (answer(WHOLE), "close"),
        (answer(WHOLE, end=b""), "keep"),
        (answer(TEXT, USAGE, DONE, end=b""), "keep"),
        (answer(WHOLE, end=b""), "close"),
        (answer(WHOLE, end=b""), "reset"),
        (answer(WHOLE, end=b"nonsense\r\n"), "keep"),
        (answer(WHOLE) + b"nonsense", "keep"),
        (answer(WHOLE[:-1]), "keep"),
        (answer(WHOLE[:-2]), "keep"),
        (answer(WHOLE[:-2], end=b""), "close"),
        (answer(TEXT, FINISH, USAGE), "keep"),
        (answer(TEXT, FINISH, USAGE[:-2]), "keep"),
        (answer(TEXT + USAGE + FINISH[:-2], end=b""), "close"),
        (answer(WHOLE.replace(b"\n", b"\r\n")), "keep"),
        (answer(*(WHOLE.replace(b"\n", b"\r")[n : n + 1] for n in range(len(WHOLE)))), "keep"),
        (answer(b"\xef\xbb\xbf: hello\n\ndata:\n\n", WHOLE), "keep"),
        (answer(WHOLE, end=b"0;last=yes\r\nX-Trailer: 1\r\n\r\n"), "keep"),
        (answer(WHOLE, end=b"7;of=a;\r\n: ping\n\r\n0\r\nX-Trailer: 1\r\n\r\n"), "keep"),
        (answer(WHOLE, head=b"content-type:TEXT/EVENT-STREAM ; charset=utf-8\r\n"), "keep"),
        (b"HTTP/1.1 200 OK\r\n" + EVENT_STREAM + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE + b"junk", "keep"),
        (b"HTTP/1.0 200 OK\r\n" + EVENT_STREAM + b"\r\n" + WHOLE, "keep"),
        (b"HTTP/1.0 200 OK\r\n" + EVENT_STREAM + b"\r\n" + WHOLE[:-14], "close"),
    ],
)
def test_whole_answers(response: bytes, then: str, out: Path) -> None:
    begun, timeout_s = time.monotonic(), 100
    run = drive(RawServer(response, then), out, request_timeout_s=timeout_s)
    assert errors(run) == {None}
    assert time.monotonic() - begun < timeout_s, "it waited for more than the answer"
    assert set(run.requests.column("tokens_in").to_pylist()) == {7}
    assert set(run.requests.column("tokens_out").to_pylist()) == {3}
    assert run.oddities == {}


@pytest.mark.parametrize(
    ("response", "then", "error"),
    [
        (answer(TEXT), "keep", "stream ended early"),
        (answer(TEXT, USAGE), "keep", "stream ended early"),
        (answer(TEXT + FINISH[:-9], end=b""), "close", "stream ended early"),
        (answer(TEXT, FINISH, end=b""), "reset", "connection reset"),
        (answer(TEXT, FINISH, end=b""), "keep", "timeout"),
        (answer(TEXT, end=b""), "keep", "timeout"),
        (answer(TEXT, end=b"nonsense\r\n"), "keep", "malformed chunk size"),
        (answer(TEXT, b'data: {"error":"died"}\n\n', end=b""), "keep", "error in stream"),
        (answer(TEXT, b"event: error\ndata: died\n\n", DONE), "keep", "error in stream"),
        (answer(TEXT, b'data: {"detail":"died"}\n\n', end=b""), "reset", "error in stream"),
        (answer(FINISH, USAGE, DONE), "keep", "stream without text"),
        (answer(b'{"error":{"message":"died"}}', head=b"Content-Type: application/json\r\n"), "keep", None),
        (answer(b"<html>" * 300_000, head=b"Content-Type: text/html\r\n"), "keep", None),
        (answer(WHOLE, head=b""), "keep", None),
        (answer(b'{"detail":"died"}', end=b"", head=b"Content-Type: application/json\r\n"), "keep", None),
        (answer(b"<html>\n<p>busy</p>\n</html>"), "keep", "stream ended early"),
        (answer(b'{"error":{"message":"died"}}'), "keep", "stream ended early"),
        (answer(b'data: {"object":"error"}'), "close", "error in stream"),
        (answer(TEXT, b"data: \xff{\n\n", DONE), "keep", "event is not json"),
        (answer(TEXT, b": " + b"a" * 2_000_000, DONE), "keep", "event too long"),
        (answer(WHOLE, head=EVENT_STREAM + b"Content-Encoding: br\r\n"), "keep", "content-encoding br"),
        (answer(WHOLE, head=EVENT_STREAM + b"Content-Encoding: gzip\r\n"), "keep", NOT_GZIP),
        (answer(WHOLE, head=EVENT_STREAM + b"Transfer-Encoding: gzip\r\n"), "keep", "unknown transfer-encoding"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "keep", "http 101"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok", "keep", "http 201"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 900\r\n\r\nok", "reset", "http 503"),
        (b"HTTP/1.1 200 OK\r\n" + EVENT_STREAM + ENDLESS, "keep", "malformed content-length"),
        (b"", "close", "connection closed without response"),
    ],
)  # fmt: skip
def test_broken_answers(response: bytes, then: str, error: str | None, out: Path) -> None:
    run = drive(RawServer(response, then), out, request_timeout_s=0.8)
    assert errors(run) == {error or "response is not an event stream"}
    assert load_record(run.requests, LoadParams(arrival="constant", rate=1)).failed == COUNT


@pytest.mark.parametrize(
    ("response", "connections"),
    [
        (answer(WHOLE), 1),
        (answer(WHOLE, end=b"0;x\r\nX-Trailer: 1\r\n\r\n"), 1),
        (answer(TEXT), 1),
        (answer(TEXT, b'data: {"error":"died"}\n\n', DONE), 1),
        (b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno", 1),
        (answer(WHOLE) + b"x", COUNT),
        (answer(WHOLE, end=b""), COUNT),
        (answer(WHOLE, head=EVENT_STREAM + b"Connection: close\r\n"), COUNT),
    ],
)
def test_connections_are_kept_after_a_clean_end_alone(response: bytes, connections: int, out: Path) -> None:
    server = RawServer(response)
    drive(server, out, rate=8)
    assert (server.connections, len(server.heads)) == (connections, COUNT)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(WHOLE, mtime=0)),
        (b"deflate", zlib.compress(WHOLE)),
        (b"Identity", WHOLE),
        (b"GZIP", gzip.compress(WHOLE, mtime=0)[:-4]),
    ],
)
def test_compressed_all_the_same(encoding: bytes, body: bytes, out: Path) -> None:
    server = RawServer(
        answer(
            *(body[n : n + 1] for n in range(len(body))), head=EVENT_STREAM + b"Content-Encoding: " + encoding + b"\r\n"
        )
    )
    run = drive(server, out)
    assert errors(run) == {None}
    assert set(run.requests.column("tokens_out").to_pylist()) == {3}


def test_what_the_head_says(out: Path) -> None:
    server = RawServer(answer(WHOLE))
    drive(server, out)
    line, *headers = server.heads[0].split("\r\n")
    assert line == "POST /v1/chat/completions?version=1 HTTP/1.1"
    assert {"Accept-Encoding: identity", "Accept: text/event-stream"} <= set(headers)
    assert not any(header.lower().startswith("authorization") for header in headers)


def test_odd_answers_are_kept_and_said(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\ndata: {"choices":[],"x":"\xff"}\n\n'
    odd += b'data: {"choices":[],"x":-Infinity,"usage":{"prompt_tokens":-1,"completion_tokens":4294967296}}\n\n'
    run = drive(RawServer(answer(TEXT, odd, DONE)), out)
    assert errors(run) == {None}
    assert run.oddities == dict.fromkeys([HALF_PAIR, BAD_UTF8, NO_NUMBER, ODD_USAGE], COUNT)
    assert set(run.requests.column("tokens_in").to_pylist()) == {None}
    assert set(run.requests.column("tokens_out").to_pylist()) == {2}
    record = load_record(run.requests, LoadParams(arrival="constant", rate=1), run.oddities)
    assert (record.failed, record.oddities) == (0, run.oddities)
    assert json.loads(record.model_dump_json())["oddities"][HALF_PAIR] == COUNT
    assert f"{COUNT} answers with {ODD_USAGE}" in caplog.text


@settings(deadline=None, max_examples=300)
@given(
    head=st.sampled_from(
        [b"", answer(end=b""), answer(TEXT, end=b""), answer(WHOLE, end=b""), b"HTTP/1.1 200 OK\r\n\r\n"]
    ),
    encoding=st.sampled_from([b"", b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n"]),
    rest=st.lists(
        st.sampled_from([chunked(TEXT), chunked(WHOLE), chunked(gzip.compress(WHOLE, mtime=0)), b"0\r\n\r\n", b"5\r\n"])
        | st.binary(max_size=30),
        max_size=8,
    ),
    size=st.integers(1, 60),
    cut=st.sampled_from([None, "timeout", "connection reset", "interrupted"]),
)
def test_no_bytes_raise_anything_but_the_error_of_the_row(
    head: bytes, encoding: bytes, rest: list[bytes], size: int, cut: str | None
) -> None:
    data = head.replace(EVENT_STREAM, EVENT_STREAM + encoding) + b"".join(rest)
    exchange = Exchange(0, "r", "t", 0)
    for start in range(0, len(data), size):
        if exchange.receive(data[start : start + size], start):
            break
    exchange.response.end()
    exchange.judge(cut)
    assert exchange.error is not None or (exchange.stream.first_token is not None and exchange.response.status == 200)
