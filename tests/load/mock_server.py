"""A mock OpenAI-compatible streaming server that behaves as badly as told. It shares the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class MockServer:
    """How to answer, and what was seen. ``break_after``: text chunks before ``ending`` happens."""

    texts: tuple[str, ...] = ("a", "b", "c")
    status: int = 200
    role_chunk: bool = True
    usage: bool = True
    gap_s: float = 0.0
    ending: str = "normal"  # or "reset", "close", "stall", "error-event", "no-done", "connection-close", "idle-close"
    break_after: int = 0
    answer_when_seen: int = 0
    content_type: str = "text/event-stream"
    connections: int = 0
    requests: list[Received] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._enough = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[MockServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer_one(reader, writer):
                pass
        writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append(Received(request_line, headers, body))
        if len(self.requests) >= self.answer_when_seen:
            self._enough.set()
        await self._enough.wait()
        if self.status != 200:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\noops" % self.status)
            return True
        if self.ending == "close" and self.break_after < 0:
            return False
        await self._stream(writer, chat="messages" in body)
        return self.ending not in ("close", "connection-close", "idle-close")

    async def _stream(self, writer: asyncio.StreamWriter, chat: bool) -> None:
        head = ["HTTP/1.1 200 OK", f"Content-Type: {self.content_type}", "Transfer-Encoding: chunked"]
        head += ["Connection: close"] if self.ending == "connection-close" else []
        writer.write("\r\n".join([*head, "", ""]).encode())
        if chat and self.role_chunk:
            self._event(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for i, text in enumerate(self.texts):
            if self.ending != "normal" and i == self.break_after and await self._broken(writer):
                return
            await asyncio.sleep(self.gap_s)
            self._event(writer, {"choices": [{"delta": {"content": text}} if chat else {"text": text}]})
        if self.usage:
            self._event(writer, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11}})
        if self.ending != "no-done":
            writer.write(_chunk(b"data: [DONE]\n\n"))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _broken(self, writer: asyncio.StreamWriter) -> bool:
        await writer.drain()
        if self.ending == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif self.ending == "stall":
            await asyncio.Event().wait()
        elif self.ending == "error-event":
            self._event(writer, {"error": {"message": "engine died", "code": 500}})
            return False
        return self.ending in ("reset", "close")

    @staticmethod
    def _event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        writer.write(_chunk(f"data: {json.dumps(event)}\n\n".encode()))


@dataclass(frozen=True)
class Received:
    request_line: str
    headers: dict[str, str]
    body: dict[str, Any]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
