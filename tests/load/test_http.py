from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.http import MAX_HEADER_BYTES, ResponseReader

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


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"1_0\r\n",
        CHUNKED + b"0x5\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"1\r\nabc\r\n",
        CHUNKED + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEADER_BYTES,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
    ],
)
def test_malformed(data: bytes) -> None:
    reader, _ = read([data])
    assert reader.error
    assert (reader.complete, reader.keep_alive) == (False, False)
    assert reader.feed(b"more") == b""


def test_body_before_the_fault_is_kept() -> None:
    reader, body = read([CHUNKED + b"3\r\nabc\r\n2\r\nde\r\nnonsense\r\n5\r\nfghij\r\n"])
    assert (body, reader.error, reader.complete) == (b"abcde", "malformed chunk size", False)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        CHUNKED + b"1\r\na\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_the_end_cost_the_connection_not_the_answer(response: bytes, together: bool) -> None:
    assert read([response])[0].keep_alive
    reader, body = read([response + b"more"] if together else [response, b"more"])
    assert (body, reader.complete, reader.keep_alive) == (read([response])[1], True, False)


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", True),
        (b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n", True),
        (b"HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close, x\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n", True),
    ],
)
def test_heads_of_other_servers(head: bytes, keep_alive: bool) -> None:
    for cut in range(len(head)):
        reader, body = read([head[:cut], head[cut:] + b"ab"])
        assert (body, reader.status, reader.complete, reader.keep_alive) == (b"ab", 200, True, keep_alive)


def test_length_beside_chunks_costs_the_connection() -> None:
    reader, body = read(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n" + chunked([b"ab"])]
    )
    assert (body, reader.complete, reader.keep_alive) == (b"ab", True, False)


@settings(deadline=None)
@given(
    head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n\r\n", CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]),
    rest=st.lists(st.sampled_from([b"\r\n", b"\n", b":", b"5", b"HTTP/1.1 ", b"200", b";"]) | st.binary(max_size=9)),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_garbage_however_it_is_cut_reads_the_same_and_never_raises(
    head: bytes, rest: list[bytes], cuts: list[int]
) -> None:
    data = head + b"".join(rest)
    (whole, body), (cut, cut_body) = read([data]), read(pieces_of(data, cuts))
    assert cut_body == body
    for name in ("status", "headers", "complete", "error", "keep_alive"):
        assert getattr(cut, name) == getattr(whole, name)
