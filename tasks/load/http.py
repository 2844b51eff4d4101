"""The client's half of HTTP/1.1 (RFC 9112) without sockets: bytes in, body bytes out, however the stream is cut."""

from __future__ import annotations

from enum import Enum, auto

MAX_HEADER_BYTES = 64 * 1024
_MAX_CHUNK_LINE_BYTES = 4096


class HttpError(ValueError):
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


class ResponseReader:
    """Reads one response.

    ``status`` is ``None`` until the header is complete. ``complete``: the whole response has arrived. ``keep_alive``:
    the connection may carry another request afterwards.
    """

    __slots__ = ("_pending", "_remaining", "_state", "headers", "keep_alive", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self._state = _State.HEAD
        self._pending = b""
        self._remaining = 0

    @property
    def complete(self) -> bool:
        return self._state is _State.COMPLETE

    def feed(self, data: bytes) -> bytes:
        """The body bytes that ``data`` brought.

        Raises:
            HttpError: malformed, or bytes after the end of the response.
        """
        if self._state is _State.HEAD:
            data = self._read_head(self._pending + data)
        if self._state is _State.HEAD or not data:
            return b""
        if self._state is _State.BODY_UNTIL_CLOSE:
            return data
        if self._state is _State.BODY_BY_LENGTH:
            return self._read_by_length(data)
        if self._state is _State.COMPLETE:
            raise HttpError("bytes after the end of the response")
        return self._read_chunks(data)

    def end(self) -> None:
        """The server closed the connection: this completes a response that lasts until the close, and only that."""
        if self._state is _State.BODY_UNTIL_CLOSE:
            self._state = _State.COMPLETE

    def _read_head(self, data: bytes) -> bytes:
        while self._state is _State.HEAD:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEADER_BYTES:
                    raise HttpError("header too long")
                self._pending = data
                return b""
            head, data = data[:end], data[end + 4 :]
            self._parse_head(head)
        self._pending = b""
        return data

    def _parse_head(self, head: bytes) -> None:
        status_line, *lines = head.split(b"\r\n")
        version, _, rest = status_line.partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit():
            raise HttpError("not an HTTP/1.1 response")
        if code.startswith(b"1"):
            return  # an interim response; the final one follows
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon:
                raise HttpError("malformed header line")
            headers[name.strip().lower()] = value.strip()
        self.headers = headers
        self.status = int(code)
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"keep-alive" in connection if version == b"HTTP/1.0" else b"close" not in connection
        self._state = self._body_framing()

    def _body_framing(self) -> _State:
        if self.status in (204, 304):
            return _State.COMPLETE
        if b"chunked" in self.headers.get(b"transfer-encoding", b"").lower():
            return _State.CHUNK_SIZE
        length = self.headers.get(b"content-length")
        if length is None:
            self.keep_alive = False
            return _State.BODY_UNTIL_CLOSE
        if not length.isdigit():
            raise HttpError("malformed content-length")
        self._remaining = int(length)
        return _State.BODY_BY_LENGTH if self._remaining else _State.COMPLETE

    def _read_by_length(self, data: bytes) -> bytes:
        if len(data) > self._remaining:
            raise HttpError("bytes after the end of the response")
        self._remaining -= len(data)
        if not self._remaining:
            self._state = _State.COMPLETE
        return data

    def _read_chunks(self, data: bytes) -> bytes:
        body: list[bytes] = []
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
                raise HttpError("bytes after the end of the response")
            newline = data.find(b"\n", position)
            if newline < 0:
                self._pending += data[position:]
                if len(self._pending) > _MAX_CHUNK_LINE_BYTES:
                    raise HttpError("chunk line too long")
                break
            self._read_chunk_line((self._pending + data[position:newline]).removesuffix(b"\r"))
            self._pending = b""
            position = newline + 1
        return body[0] if len(body) == 1 else b"".join(body)

    def _read_chunk_line(self, line: bytes) -> None:
        if self._state is _State.CHUNK_SIZE:
            digits = line.partition(b";")[0].strip()
            try:
                self._remaining = int(digits, 16)
            except ValueError as error:
                raise HttpError("malformed chunk size") from error
            if self._remaining < 0:
                raise HttpError("malformed chunk size")
            self._state = _State.CHUNK_DATA if self._remaining else _State.TRAILER
        elif self._state is _State.CHUNK_END:
            if line:
                raise HttpError("chunk longer than its size")
            self._state = _State.CHUNK_SIZE
        elif not line:
            self._state = _State.COMPLETE
