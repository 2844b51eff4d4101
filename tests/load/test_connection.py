from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tasks.load import connection as module
from tasks.load.connection import Connection, Exchange, Pool, classify
from tests.load.mock_server import MockServer

REQUEST = b'POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 15\r\n\r\n{"messages":[]}'


class Harness:
    """A pool on a mock server, and a way to wait for one request."""

    def __init__(self, server: MockServer) -> None:
        self.server = server
        self.finished: asyncio.Queue[Exchange] = asyncio.Queue()
        port = int(server.url.rpartition(":")[2])
        loop = asyncio.get_running_loop()
        self.pool = Pool(loop, "127.0.0.1", port, None, self.finished.put_nowait)

    async def ask(self) -> Exchange:
        self.pool.send(Exchange(0, "r", "t", 0), REQUEST)
        return await self.finished.get()

    def idle(self) -> list[Connection]:
        return self.pool._idle


def with_harness(scenario) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with MockServer().running() as server:
            harness = Harness(server)
            await scenario(harness)
            harness.pool.close()

    asyncio.run(run())


def test_reuse() -> None:
    async def scenario(harness: Harness) -> None:
        assert [(await harness.ask()).error for _ in range(3)] == [None] * 3
        assert harness.server.connections == 1

    with_harness(scenario)


def test_reuse_after_an_http_error() -> None:
    async def scenario(harness: Harness) -> None:
        harness.server.status = 503
        assert [(await harness.ask()).error for _ in range(3)] == ["http 503"] * 3
        assert harness.server.connections == 1

    with_harness(scenario)


def test_closed_idle_connection_is_replaced() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.ask()
        harness.idle()[0].transport.abort()
        assert (await harness.ask()).error is None
        assert len(harness.server.requests) == harness.server.connections == 2

    with_harness(scenario)


def test_request_of_which_nothing_was_sent_goes_out_on_a_fresh_connection() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.ask()
        # the kernel refuses the write, as after a reset that the event loop has not seen yet
        harness.idle()[0].transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        exchange = await harness.ask()
        assert exchange.error is None
        assert len(harness.server.requests) == harness.server.connections == 2

    with_harness(scenario)


def test_old_idle_connections_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(harness: Harness) -> None:
        await harness.ask()
        monkeypatch.setattr(module, "MAX_IDLE_NS", 0)
        assert (await harness.ask()).error is None
        assert harness.server.connections == 2
        assert len(harness.idle()) == 1

    with_harness(scenario)


def test_connection_closed_by_the_server_leaves_the_pool() -> None:
    async def scenario(harness: Harness) -> None:
        harness.server.ending = "idle-close"
        harness.server.break_after = -1
        await harness.ask()
        while harness.idle():
            await asyncio.sleep(0.001)

    with_harness(scenario)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (BrokenPipeError(errno.EPIPE, "x"), "connection reset"),
        (socket.gaierror(-2, "Name or service not known"), "host not found"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111]"), "connection refused"),
        (OSError(errno.EIO, "x"), "input/output error"),
        (OSError("odd"), "connection failed"),
    ],
)
def test_classify(error: OSError, text: str) -> None:
    assert classify(error) == text
