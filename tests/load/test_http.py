from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.http import MAX_HEADER_BYTES, HttpError, ResponseReader

bodies = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def chunked(parts: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def read(pieces: list[bytes]) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader()
    body = b"".join([reader.feed(piece) for piece in pieces])
    return reader, body


@settings(deadline=None)
@given(
    parts=bodies,
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
    interim=st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"]),
    extension=st.sampled_from([b"", b";name=value"]),
    trailer=st.sampled_from([b"", b"X-Trailer: 1\r\n"]),
)
def test_chunked_however_it_is_cut(
    parts: list[bytes], cuts: list[int], interim: bytes, extension: bytes, trailer: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    reader, body = read(pieces_of(interim + head + chunked(parts, extension, trailer), cuts))
    assert body == b"".join(parts)
    assert (reader.status, reader.complete, reader.keep_alive) == (200, True, True)
    assert reader.headers[b"x-a"] == b"b"


@settings(deadline=None)
@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_content_length_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    data = b"HTTP/1.1 503 Unavailable\r\ncontent-length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    reader, found = read(pieces_of(data, cuts))
    assert (found, reader.status, reader.complete, reader.keep_alive) == (body, 503, True, False)


@settings(deadline=None)
@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_body_that_lasts_until_the_close(body: bytes, cuts: list[int]) -> None:
    reader, found = read(pieces_of(b"HTTP/1.0 200 OK\r\n\r\n" + body, cuts))
    assert not reader.complete
    reader.end()
    assert (found, reader.complete, reader.keep_alive) == (body, True, False)


@settings(deadline=None)
@given(parts=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), lost=st.integers(1, 40))
def test_a_cut_response_is_never_complete(parts: list[bytes], lost: int) -> None:
    body = chunked(parts)
    reader, _ = read([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body[: max(0, len(body) - lost)]])
    reader.end()
    assert not reader.complete


def test_no_body() -> None:
    assert read([b"HTTP/1.1 204 No Content\r\n\r\n"])[0].complete
    assert read([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])[0].complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nb",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEADER_BYTES,
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(HttpError):
        read([data])
