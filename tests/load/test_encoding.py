from __future__ import annotations

import contextlib
import gzip
import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load import encoding as module
from tasks.load.encoding import Decoder, EncodingError


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def in_parts(data: bytes) -> bytes:
    """Flushed every 50 bytes, as by a server that compresses a stream."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    parts = [
        compressor.compress(data[n : n + 50]) + compressor.flush(zlib.Z_SYNC_FLUSH) for n in range(0, len(data), 50)
    ]
    return b"".join(parts) + compressor.flush()


ENCODINGS = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"X-GZIP", gzip.compress),
    "flushed": (b"gzip", in_parts),
    "members": (b"gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "padded": (b"gzip", lambda data: gzip.compress(data) + b"\0" * 20),
    "zlib": (b"deflate", zlib.compress),
    "raw": (b"deflate", raw_deflate),
}


@pytest.mark.parametrize("name", ENCODINGS)
@settings(deadline=None, max_examples=30)
@given(
    data=st.binary(max_size=300) | st.integers(1, 200_000).map(lambda size: b"data: a\n\n" * (size // 9)),
    cuts=st.lists(st.integers(0, 100_000), max_size=30),
)
def test_however_it_is_cut(name: str, data: bytes, cuts: list[int]) -> None:
    encoding, encode = ENCODINGS[name]
    encoded = encode(data)
    edges = sorted({0, len(encoded), *(cut % (len(encoded) + 1) for cut in cuts)})
    decoder = Decoder(encoding)
    assert b"".join(piece for a, b in itertools.pairwise(edges) for piece in decoder.feed(encoded[a:b])) == data


def test_each_flush_comes_through_at_once() -> None:
    compressor, decoder = zlib.compressobj(wbits=16 + zlib.MAX_WBITS), Decoder(b"gzip")
    for text in (b"data: a\n\n", b"data: b\n\n"):
        assert b"".join(decoder.feed(compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))) == text


@pytest.mark.parametrize(
    ("encoding", "named"),
    [(b"br", "br"), (b"zstd", "zstd"), (b"gzip, br", "gzip, br"), (b"\xff<script>" + b"a" * 99, "??script?aaaa")],
)
def test_what_is_not_read_is_named(encoding: bytes, named: str) -> None:
    with pytest.raises(EncodingError) as caught:
        Decoder(encoding)
    assert str(caught.value).startswith(f"content-encoding {named}")
    assert len(str(caught.value)) < 60


@settings(deadline=None)
@given(data=st.binary(max_size=60), encoding=st.sampled_from([b"gzip", b"deflate"]))
def test_garbage(data: bytes, encoding: bytes) -> None:
    with contextlib.suppress(EncodingError):
        list(Decoder(encoding).feed(data))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", b'data: {"choices": []}'),
        (b"deflate", b"\x78\x9cnonsense"),
        (b"gzip", gzip.compress(b"a" * 99, mtime=0)[:-9] + b"x" * 9),
    ],
)
def test_what_does_not_decode(encoding: bytes, body: bytes) -> None:
    with pytest.raises(EncodingError, match="not what its content-encoding says"):
        list(Decoder(encoding).feed(body))


def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DECODED_BYTES", 1_000_000)
    with pytest.raises(EncodingError, match="too long"):
        list(Decoder(b"gzip").feed(gzip.compress(b"\n" * 2_000_000)))
