"""Server-sent events: bytes in, events out, however the bytes are cut (HTML standard, "Server-sent events").

Lines end with LF, CRLF or CR; a byte order mark at the start, comments and unknown fields are skipped; several ``data``
lines of one event are joined by line feeds; an event ends with an empty line. Bytes stay bytes: what they decode to is
the matter of whoever reads the events.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CR = 13


Event = tuple[bytes, bytes, int]
"""Type (empty unless the event names one), data, and when the last of its data lines had arrived: a reader could have
its text then; the empty line that ends it may come later."""


class EventTooLongError(ValueError):
    """A line, or the lines of one event together, have more than ``MAX_EVENT_BYTES``."""


class EventReader:
    """Reads one stream. Arrival times are whatever the caller passes to ``feed``."""

    __slots__ = ("_after_cr", "_arrival", "_at_start", "_data", "_partial", "_size", "_type")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._type = b""
        self._arrival = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, body: bytes, arrival: int) -> Iterator[Event]:
        """Yield the events that the next bytes complete; use them up before the next call.

        Raises:
            EventTooLongError: after the events before it; the stream cannot be read on.
        """
        if self._after_cr and body:  # the line feed of a CRLF that fell into two reads
            body = body.removeprefix(b"\n")
            self._after_cr = False
        if not body:
            return
        lines = body.splitlines()
        whole = body[-1] in b"\r\n"
        self._after_cr = body[-1] == _CR
        if self._partial:
            self._partial += lines[0]
            lines[0] = bytes(self._partial) if whole or len(lines) > 1 else b""
        partial = b"" if whole else lines.pop()
        if lines:
            self._partial.clear()
            if self._at_start:
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
                self._at_start = False
        self._partial += partial
        for line in lines:
            if not line:
                if self._data:
                    yield self._type, b"\n".join(self._data), self._arrival
                    self._data = []
                self._type = b""
                self._size = 0
                continue
            if self._size + len(line) > MAX_EVENT_BYTES:
                raise EventTooLongError
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value[1:] if value[:1] == b" " else value)
                self._size += len(line)
                self._arrival = arrival
            elif name == b"event":
                self._type = value.removeprefix(b" ")
        if self._size + len(self._partial) > MAX_EVENT_BYTES:
            raise EventTooLongError

    def end(self, arrival: int) -> Iterator[Event]:
        """Yield the event that the end of the stream cut short of its empty line or its last line end.

        The standard drops it; some servers end their last event so.
        """
        return self.feed(b"\n\n", arrival)
