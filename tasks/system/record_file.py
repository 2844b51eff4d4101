"""Append-only files of byte strings, such as export requests of OTLP: written by several threads, read at any time.

A record is a 16-byte header (length, CRC-32, time of arrival) and the payload. A record torn by ``kill -9`` is cut off
when the file is opened for writing again, and a reader stops in front of it.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

HEADER = struct.Struct("<IIQ")
"""Payload bytes, CRC-32 of the payload, arrival in nanoseconds since the epoch."""


class RecordFile:
    """One file, for appending; safe to call from several threads.

    Args:
        path: created if missing; a torn last record is cut off.
        max_bytes: size at which ``append`` starts to refuse.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with path.open("rb") as stream:
            self._size = sum(HEADER.size + len(payload) for _, payload in _records(stream))
        os.ftruncate(self._descriptor, self._size)

    def append(self, payload: bytes) -> bool:
        """Store one record. Return False when the file is full."""
        header = HEADER.pack(len(payload), zlib.crc32(payload), time.time_ns())
        with self._lock:
            if self._size + len(header) + len(payload) > self._max_bytes:
                return False
            written = os.writev(self._descriptor, [header, payload])
            if written != len(header) + len(payload):
                os.ftruncate(self._descriptor, self._size)
                return False
            self._size += written
        return True

    def close(self) -> None:
        with self._lock:
            os.close(self._descriptor)


def read_records(
    path: Path,
    received_from_ns: int = 0,
    received_to_ns: int = 2**64 - 1,
    damaged: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """Yield the payloads that arrived within the two times, in order of arrival.

    A record with a wrong checksum is left out and ``damaged`` is called for it; reading ends before a torn record.
    """
    with path.open("rb") as stream:
        for _, payload in _records(stream, received_from_ns, received_to_ns, damaged):
            if payload:
                yield payload


def _records(
    stream: BinaryIO,
    received_from_ns: int = 0,
    received_to_ns: int = 2**64 - 1,
    damaged: Callable[[], None] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Whole records; one that did not arrive within the two times is skipped, not read. Without ``damaged``, the first
    with a wrong checksum ends them."""
    size = os.fstat(stream.fileno()).st_size
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        length, checksum, received_ns = HEADER.unpack(header)
        if stream.tell() + length > size:
            return
        if not received_from_ns <= received_ns <= received_to_ns:
            stream.seek(length, os.SEEK_CUR)
            continue
        payload = stream.read(length)
        if zlib.crc32(payload) == checksum:
            yield received_ns, payload
        elif damaged is None:
            return
        else:
            damaged()
