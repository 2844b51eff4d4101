"""Decode bodies that a server compressed although the request did not allow it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

MAX_DECODED_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f"
_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class EncodingError(ValueError):
    """A body that cannot be decoded. The text is short and fit for a table."""


class Decoder:
    """Decodes one body of a given ``Content-Encoding``: gzip or deflate (with or without zlib's header).

    Raises:
        EncodingError: any other encoding; the message names it.
    """

    def __init__(self, encoding: bytes) -> None:
        name = encoding.strip().lower().decode("latin-1")
        if name not in ("gzip", "x-gzip", "deflate"):
            shown = re.sub(r"[^a-z0-9, _.-]", "?", name)[:30]
            raise EncodingError(f"content-encoding {shown}")
        self._raw_allowed = name == "deflate"
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._begin = b""
        self._decoded = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body, in pieces.

        Raises:
            EncodingError: they do not decode, or to more than ``MAX_DECODED_BYTES``.
        """
        if self._raw_allowed:  # the first two bytes tell zlib's header from none
            data = self._begin + data
            if len(data) < 2:
                self._begin = data
                return
            if data[0] & 0x0F != 8 or int.from_bytes(data[:2]) % 31:
                self._zlib = zlib.decompressobj(_RAW)
            self._raw_allowed = False
        while True:
            if self._zlib.eof:
                if not data.startswith(_GZIP_MAGIC):
                    return  # padding
                self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                piece = self._zlib.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise EncodingError("body is not what its content-encoding says") from error
            self._decoded += len(piece)
            if self._decoded > MAX_DECODED_BYTES:
                raise EncodingError("body too long")
            if piece:
                yield piece
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            if not data and len(piece) < _PIECE_BYTES:
                return
