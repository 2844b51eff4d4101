"""Connections to the server under load: one request at a time each, reused while the server keeps them open."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Callable

from tasks.load.encoding import Decoder, EncodingError
from tasks.load.http import ResponseReader
from tasks.load.stream import CompletionStream

MAX_IDLE_NS = 4_000_000_000
"""An idle connection older than this is not reused: common servers close theirs after 5 s."""

_ERRNO_NAMES = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ETIMEDOUT: "connection timed out",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EMFILE: "too many open files",
    errno.EADDRNOTAVAIL: "out of local ports",
}


def classify(error: OSError) -> str:
    """Return a short text for a table. asyncio merges errors of several addresses into one text without ``errno``."""
    if isinstance(error, socket.gaierror):
        return "host not found"
    if isinstance(error, ssl.SSLError):
        return "tls error"
    in_text = re.search(r"\[Errno (\d+)\]", str(error))
    number = error.errno or (int(in_text[1]) if in_text else 0)
    return _ERRNO_NAMES.get(number) or (os.strerror(number).lower() if number else "connection failed")


class Exchange:
    """A request and its response. Times are ``time.monotonic_ns``.

    ``sent``: when the request was handed to the network, which is when the connection attempt began if it needed a new
    connection: a slow network is the server's latency, not the generator's lag. ``answered``: when ``[DONE]`` or an
    error of the server had come; None before. ``broken``: why the response cannot be read on.
    """

    __slots__ = (
        "_decoder",
        "answered",
        "broken",
        "connecting",
        "connection",
        "error",
        "index",
        "request_id",
        "response",
        "scheduled",
        "sent",
        "stream",
        "trace_id",
    )

    def __init__(self, index: int, request_id: str, trace_id: str, scheduled: int) -> None:
        self.index = index
        self.request_id = request_id
        self.trace_id = trace_id
        self.scheduled = scheduled
        self.sent = 0
        self.answered: int | None = None
        self.broken: str | None = None
        self.error: str | None = None
        self._decoder: Decoder | None = None
        self.response = ResponseReader()
        self.stream = CompletionStream()
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None

    def receive(self, data: bytes, arrival: int) -> bool:
        """Take bytes of the response; return True when it is over."""
        response = self.response
        body = response.feed(data)
        if body and response.status == 200:
            try:
                self._decode(body, arrival)
            except EncodingError as error:
                self.broken = str(error)
        if response.error is not None:
            self.broken = self.broken or response.error
        if self.broken is not None or self.stream.unreadable:
            return True
        if self.answered is None and (self.stream.done or self.stream.error is not None):
            self.answered = arrival
        return response.complete

    def _decode(self, body: bytes, arrival: int) -> None:
        if not self.response.encoding:
            self.stream.feed(body, arrival)
            return
        if self._decoder is None:
            self._decoder = Decoder(self.response.encoding)
        for piece in self._decoder.feed(body):
            self.stream.feed(piece, arrival)
            if self.stream.done or self.stream.unreadable:
                return

    def judge(self, cut: str | None = None) -> None:
        """Set ``error`` of an exchange that is over.

        An answer is whole once ``[DONE]`` has come, whatever happens to the connection then; without it when it gave a
        reason for its end and the server ended it there.

        Args:
            cut: what ended it, unless the server did.
        """
        status, stream, cut = self.response.status, self.stream, self.broken or cut
        content_type = self.response.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if status is None:
            self.error = cut or "connection closed without response"
        elif status != 200:
            self.error = f"http {status}"
        elif content_type != b"text/event-stream":
            self.error = "response is not an event stream"
        else:
            stream.end()
            if stream.error is not None:
                self.error = stream.error
            elif not stream.done and (cut is not None or not stream.finished):
                self.error = cut or "stream ended early"
            elif stream.first_token is None:
                self.error = "stream without text"


class Connection(asyncio.Protocol):
    """Carries one exchange after another."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._exchange: Exchange | None = None
        self.transport: asyncio.Transport
        self.idle_since = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def start(self, exchange: Exchange, request: bytes) -> bool:
        """Write the request. Return False if the connection turned out closed: then nothing of it was sent."""
        self.transport.write(request)
        if self.transport.is_closing():
            return False
        self._exchange = exchange
        exchange.connection = self
        return True

    def data_received(self, data: bytes) -> None:
        arrival = time.monotonic_ns()
        exchange = self._exchange
        if exchange is None:
            self.transport.abort()  # an idle server has nothing to say
        elif exchange.receive(data, arrival):
            self._finish(exchange)
        elif exchange.answered is not None:
            self._pool.answered.add(exchange)

    def connection_lost(self, error: Exception | None) -> None:
        exchange = self._exchange
        if exchange is None:
            self._pool.forget(self)
            return
        exchange.response.end()
        self._finish(exchange, classify(error) if isinstance(error, OSError) else None)

    def give_up(self) -> None:
        """Drop the exchange and the connection at once."""
        self._exchange = None
        self.transport.abort()

    def _finish(self, exchange: Exchange, cut: str | None = None) -> None:
        self._exchange = None
        self._pool.answered.discard(exchange)
        exchange.judge(cut)
        if exchange.response.complete and exchange.response.keep_alive:
            self._pool.put(self)
        else:
            self.transport.abort()
        self._pool.on_finished(exchange)


class Pool:
    """Finds or opens a connection for each request. ``on_finished`` is called once for each that is not cancelled."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        on_finished: Callable[[Exchange], None],
    ) -> None:
        self._loop = loop
        self._host = host
        self._port = port
        self._tls = tls
        self._idle: list[Connection] = []
        self.answered: set[Exchange] = set()
        self.on_finished = on_finished

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Start the exchange, on the connection that was idle last if one is fresh enough, else on a new one."""
        exchange.sent = time.monotonic_ns()
        while self._idle:
            connection = self._idle.pop()
            if exchange.sent - connection.idle_since > MAX_IDLE_NS:
                self._close_idle(connection)
            elif not connection.transport.is_closing() and connection.start(exchange, request):
                return
        exchange.connecting = self._loop.create_task(self._send_on_new(exchange, request))

    def lingering(self, answered_before: int) -> list[Exchange]:
        """Return exchanges whose response has stayed open behind its last event since before that time."""
        return [each for each in self.answered if each.answered is not None and each.answered < answered_before]

    def cancel(self, exchange: Exchange) -> None:
        """Give up on an exchange that has not finished."""
        self.answered.discard(exchange)
        if exchange.connecting is not None:
            exchange.connecting.cancel()
        if exchange.connection is not None:
            exchange.connection.give_up()

    def put(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic_ns()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()

    def _close_idle(self, oldest: Connection) -> None:
        """Close ``oldest`` and all that are left: the pool is ordered by age, so they are older still."""
        oldest.transport.abort()
        self.close()

    async def _send_on_new(self, exchange: Exchange, request: bytes) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self), self._host, self._port, ssl=self._tls
            )
        except OSError as error:
            exchange.error = classify(error)
            self.on_finished(exchange)
            return
        finally:
            exchange.connecting = None
        if not connection.start(exchange, request):
            exchange.error = "connection reset"
            self.on_finished(exchange)
