"""Read HTTP/1.1 responses (RFC 9112) without sockets: bytes in, body bytes out, however the stream is cut."""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_HEADER_BYTES = 64 * 1024
_MAX_CHUNK_LINE_BYTES = 4096
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) (\d{3})(?: .*)?", re.DOTALL)
_LENGTH = re.compile(rb"\d{1,18}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class _MalformedError(ValueError):
    """Bytes that are not an HTTP/1.1 response."""


class _State(Enum):
    HEAD = auto()
    BODY_BY_LENGTH = auto()
    BODY_UNTIL_CLOSE = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    COMPLETE = auto()
    MALFORMED = auto()


_IN_CHUNKS = (_State.CHUNK_DATA, _State.CHUNK_END, _State.CHUNK_SIZE, _State.TRAILER)


class ResponseReader:
    """Reads one response.

    ``status`` is ``None`` until the header is complete. ``headers``: names in lower case; the values of one that is
    given several times are joined by commas. ``encoding``: of the body, empty if it is as it is. ``complete``: the
    whole response has arrived. ``error``: what came is no HTTP/1.1 response, and what follows is not read.
    ``keep_alive``: the connection may carry another request afterwards, which it may not when bytes came after the end.
    """

    __slots__ = ("_pending", "_remaining", "_state", "encoding", "error", "headers", "keep_alive", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.encoding = b""
        self.keep_alive = False
        self.error: str | None = None
        self._state = _State.HEAD
        self._pending = b""
        self._remaining = 0

    @property
    def complete(self) -> bool:
        return self._state is _State.COMPLETE

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in ``data``, up to the first that is wrong (see ``error``)."""
        body: list[bytes] = []
        try:
            if self._state is _State.HEAD:
                data = self._read_head(self._pending + data)
            if self._state in _IN_CHUNKS:
                self._read_chunks(data, body)
            elif self._state is _State.BODY_UNTIL_CLOSE:
                return data
            elif self._state is _State.BODY_BY_LENGTH:
                return self._read_by_length(data)
            elif self._state is _State.COMPLETE:
                self.keep_alive = self.keep_alive and not data
        except _MalformedError as error:
            self.error = str(error)
            self.keep_alive = False
            self._state = _State.MALFORMED
        return body[0] if len(body) == 1 else b"".join(body)

    def end(self) -> None:
        """Take note that the server closed the connection, which completes a response that lasts until the close."""
        if self._state is _State.BODY_UNTIL_CLOSE:
            self._state = _State.COMPLETE

    def _read_head(self, data: bytes) -> bytes:
        while self._state is _State.HEAD:
            data = data.lstrip(b"\r\n")  # an empty line after the response before
            end = _END_OF_HEAD.search(data)
            if end is None or end.start() > MAX_HEADER_BYTES:
                if len(data) > MAX_HEADER_BYTES:
                    raise _MalformedError("header too long")
                self._pending = data
                return b""
            head, data = data[: end.start()], data[end.end() :]
            self._parse_head(head)
        self._pending = b""
        return data

    def _parse_head(self, head: bytes) -> None:
        status_line, *lines = head.replace(b"\r\n", b"\n").split(b"\n")
        found = _STATUS_LINE.fullmatch(status_line)
        if found is None:
            raise _MalformedError("not an HTTP/1.1 response")
        minor, status = found[1], int(found[2])
        if 100 <= status < 200 and status != 101:
            return  # an interim response; the final one follows
        headers: dict[bytes, bytes] = {}
        name = b""
        for line in lines:
            if line[:1] in (b" ", b"\t") and name:  # the value goes on
                headers[name] += b" " + line.strip()
                continue
            name, colon, value = line.partition(b":")
            name = name.strip().lower()
            if not colon or not name:
                raise _MalformedError("malformed header line")
            headers[name] = b", ".join([headers[name], value.strip()]) if name in headers else value.strip()
        self.headers = headers
        encoding = headers.get(b"content-encoding", b"").lower()
        self.encoding = b"" if encoding == b"identity" else encoding
        self.status = status
        connection = _members(headers.get(b"connection", b""))
        self.keep_alive = b"keep-alive" in connection if minor == b"0" else True
        self.keep_alive = self.keep_alive and b"close" not in connection and status != 101
        self._state = self._body_framing()

    def _body_framing(self) -> _State:
        if self.status in (204, 304):
            return _State.COMPLETE
        coding = [
            each for each in _members(self.headers.get(b"transfer-encoding", b"")) if each not in (b"", b"identity")
        ]
        if coding == [b"chunked"]:
            self.keep_alive = self.keep_alive and b"content-length" not in self.headers
            return _State.CHUNK_SIZE
        if coding:
            raise _MalformedError("unknown transfer-encoding")
        lengths = set(_members(self.headers.get(b"content-length", b"")))
        if lengths == {b""}:
            self.keep_alive = False
            return _State.BODY_UNTIL_CLOSE
        length = lengths.pop()
        if lengths or not _LENGTH.fullmatch(length):
            raise _MalformedError("malformed content-length")
        self._remaining = int(length)
        return _State.BODY_BY_LENGTH if self._remaining else _State.COMPLETE

    def _read_by_length(self, data: bytes) -> bytes:
        body = data[: self._remaining]
        self._remaining -= len(body)
        if not self._remaining:
            self._state = _State.COMPLETE
            self.keep_alive = self.keep_alive and len(data) == len(body)
        return body

    def _read_chunks(self, data: bytes, body: list[bytes]) -> None:
        position = 0
        while position < len(data):
            if self._state is _State.CHUNK_DATA:
                piece = data[position : position + self._remaining]
                body.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = _State.CHUNK_END
                continue
            if self._state is _State.COMPLETE:
                self.keep_alive = False
                return
            newline = data.find(b"\n", position)
            if newline < 0:
                self._pending += data[position:]
                if len(self._pending) > _MAX_CHUNK_LINE_BYTES:
                    raise _MalformedError("chunk line too long")
                return
            self._read_chunk_line((self._pending + data[position:newline]).removesuffix(b"\r"))
            self._pending = b""
            position = newline + 1

    def _read_chunk_line(self, line: bytes) -> None:
        if self._state is _State.CHUNK_SIZE:
            digits = line.partition(b";")[0].strip()
            if not _CHUNK_SIZE.fullmatch(digits):
                raise _MalformedError("malformed chunk size")
            self._remaining = int(digits, 16)
            self._state = _State.CHUNK_DATA if self._remaining else _State.TRAILER
        elif self._state is _State.CHUNK_END:
            if line:
                raise _MalformedError("chunk longer than its size")
            self._state = _State.CHUNK_SIZE
        elif not line:
            self._state = _State.COMPLETE


def _members(value: bytes) -> list[bytes]:
    """Return the members of a comma-separated header in lower case."""
    return [member.strip() for member in value.lower().split(b",")]
