from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.stream import MAX_LINE_BYTES, CompletionStream, StreamError

ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 40}}
FINISH = {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": None}


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content}}]}


def encode(*events: dict[str, Any] | str, newline: str = "\n") -> bytes:
    payloads = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {payload}{newline}{newline}" for payload in payloads).encode()


def fed(*pieces: bytes) -> CompletionStream:
    """The stream after the pieces, each arriving at the time that is its number."""
    stream = CompletionStream()
    for number, piece in enumerate(pieces):
        stream.feed(piece, number)
    return stream


def test_first_token_is_the_first_text_not_the_role_nor_the_usage() -> None:
    stream = fed(*(encode(event) for event in (ROLE, text(""), text("a"), text("b"), FINISH, USAGE, "[DONE]")))
    assert (stream.first_token, stream.last_token, stream.done) == (2, 3, True)
    assert (stream.tokens_in, stream.tokens_out) == (5, 40)


@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning"])
def test_reasoning_is_output_too(key: str) -> None:
    assert fed(encode(ROLE), encode({"choices": [{"delta": {key: "x"}}]})).first_token == 1


def test_completions_text() -> None:
    stream = fed(encode({"choices": [{"text": ""}]}), encode({"choices": [{"text": "x"}]}))
    assert (stream.first_token, stream.tokens_out) == (1, 1)


def test_without_usage_chunks_are_counted_and_the_prompt_is_unknown() -> None:
    stream = fed(encode(ROLE, text("a"), text(""), text("b"), "[DONE]"))
    assert (stream.tokens_in, stream.tokens_out) == (None, 2)


def test_usage_in_every_chunk_the_last_counts() -> None:
    stream = fed(*(encode({**text("a"), "usage": {"prompt_tokens": 3, "completion_tokens": n}}) for n in (1, 2, 3)))
    assert (stream.tokens_in, stream.tokens_out) == (3, 3)


def test_comments_and_other_fields_are_skipped() -> None:
    stream = fed(b": ping\n\nevent: x\nid: 1\nretry: 5\n\n" + encode(text("a")))
    assert stream.first_token == 0


def test_error_event() -> None:
    assert fed(encode(text("a"), {"error": {"message": "no"}})).error


@settings(deadline=None)
@given(
    contents=st.lists(st.text(max_size=8), max_size=10),
    newline=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 100_000), max_size=40),
)
def test_however_the_stream_is_cut(contents: list[str], newline: str, cuts: list[int]) -> None:
    events: list[dict[str, Any] | str] = [ROLE, *(text(content) for content in contents), USAGE, "[DONE]"]
    data = encode(*events, newline=newline)
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    stream = fed(*(data[a:b] for a, b in itertools.pairwise(edges)))

    line_ends = [len(encode(*events[:i], newline=newline)) - len(newline) for i in range(1, len(events) + 1)]
    with_text = [line_ends[i + 1] for i, content in enumerate(contents) if content]

    def piece_holding(byte: int) -> int:
        return next(number for number, edge in enumerate(edges[1:]) if edge >= byte)

    assert stream.first_token == (piece_holding(with_text[0]) if with_text else None)
    assert stream.last_token == (piece_holding(with_text[-1]) if with_text else None)
    assert (stream.tokens_in, stream.tokens_out, stream.done) == (5, 40, True)


@pytest.mark.parametrize(
    "payload",
    [b"data: {broken\n", b"data: 5\n", b'data: {"choices": 5}\n', b'data: {"usage": {"prompt_tokens": "x"}}\n'],
)
def test_what_is_no_completion_chunk(payload: bytes) -> None:
    with pytest.raises(StreamError):
        fed(payload)


def test_a_line_that_never_ends() -> None:
    with pytest.raises(StreamError, match="too long"):
        fed(b"data: " + b"a" * MAX_LINE_BYTES)
