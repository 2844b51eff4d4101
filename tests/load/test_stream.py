from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.events import MAX_EVENT_BYTES
from tasks.load.stream import BAD_UTF8, HALF_PAIR, HUGE_NUMBER, MAX_TOKENS, NO_NUMBER, ODD_USAGE, CompletionStream

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


def ended(*pieces: bytes) -> CompletionStream:
    stream = fed(*pieces)
    stream.end()
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


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "no", "code": 500}},
        {"error": "no"},
        {"error": {"message": "no"}, "choices": []},
        {"error": ""},
        {"error": {}},
        {"errors": ["no"]},
        {"object": "error", "message": "no", "code": 400},
        {"object": "error"},
        {"type": "error"},
        {"type": "internal_error", "message": "no"},
        {"detail": "no"},
        {"detail": [{"msg": "no"}]},
        {"message": "no", "code": 500},
    ],
)
def test_error_in_the_stream(event: dict[str, Any]) -> None:
    stream = ended(encode(ROLE, text("a"), event, "[DONE]"))
    assert (stream.error, stream.unreadable, stream.done) == ("error in stream", False, True)


@pytest.mark.parametrize("data", ["no", "[DONE]", "", json.dumps({"code": 1}), json.dumps(text("a"))])
@pytest.mark.parametrize("kind", ["error", "Error"])
def test_event_of_type_error(kind: str, data: str) -> None:
    assert ended(encode(text("a")) + f"event: {kind}\ndata: {data}\n\n".encode()).error == "error in stream"
    assert ended(encode(text("a")) + f"data: {data}\nevent:{kind}\n".encode()).error == "error in stream"


@pytest.mark.parametrize(
    "event",
    [
        {"error": None, **text("b")},
        {"error": None, "choices": []},
        {"detail": "of a kind", "message": "hello", **text("b")},
        {"object": "chat.completion.chunk", "choices": None},
        {"type": "ping"},
        {"choices": [], "prompt_filter_results": []},
        {},
    ],
)
def test_what_is_no_error(event: dict[str, Any]) -> None:
    stream = ended(encode(text("a"), event, "[DONE]"))
    assert (stream.error, stream.done, stream.oddities) == (None, True, set())


@pytest.mark.parametrize("reason", ["error", "abort", "ABORT", "cancelled", {"type": "abort", "message": "no"}])
def test_an_answer_that_ended_badly(reason: Any) -> None:
    stream = fed(encode(text("a"), {"choices": [{"delta": {}, "finish_reason": reason}]}, "[DONE]"))
    name = reason["type"] if isinstance(reason, dict) else reason.lower()
    assert stream.error == f"finish_reason {name}"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", {"type": "length", "length": 3}])
def test_an_answer_that_gave_its_reason(reason: Any) -> None:
    stream = fed(encode(text("a"), {"choices": [{"delta": {}, "finish_reason": reason}]}))
    assert (stream.error, stream.finished, stream.done) == (None, True, False)
    assert not fed(encode(text("a"), {"choices": [{"delta": {}, "finish_reason": None}]})).finished


def test_what_follows_done_is_not_read() -> None:
    stream = ended(encode(text("a"), USAGE, "[DONE]"), b"nonsense: \xff\ndata: {broken\n\n", encode({"error": "x"}))
    assert (stream.error, stream.tokens_out, stream.last_token, stream.oddities) == (None, 40, 0, set())


@pytest.mark.parametrize(
    "blank", ["data:", "data", "data: ", "data:\ndata:", ": ping", "event: ping", "id: 1\nretry: 2"]
)
def test_events_that_say_nothing(blank: str) -> None:
    stream = ended(f"{blank}\n\n".encode() + encode(text("a")) + f"{blank}\n\n".encode() + encode(USAGE, "[DONE]"))
    assert (stream.error, stream.done, stream.tokens_out) == (None, True, 40)


@pytest.mark.parametrize(("data", "error"), [("event: ping\ndata: now", None), ("data: now", "event is not json")])
def test_text_in_an_event_of_a_type_of_its_own(data: str, error: str | None) -> None:
    assert fed(f"{data}\n\n".encode() + encode(text("a"), "[DONE]")).error == error


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_chunk_over_several_data_lines(newline: str) -> None:
    lines = json.dumps(text("a"), indent=1).splitlines()
    stream = fed(newline.join([*(f"data: {line}" for line in lines), "", ""]).encode())
    assert (stream.first_token, stream.error) == (0, None)


@pytest.mark.parametrize(
    "tail", ["data: [DONE]", "data: [DONE]\n", "data:[DONE]\r", "data: [DONE]\r\n", "data\ndata: [DONE]"]
)
def test_a_last_event_without_its_end_counts(tail: str) -> None:
    assert not fed(encode(text("a")) + tail.encode()).done
    assert ended(encode(text("a")) + tail.encode()).done


@pytest.mark.parametrize("tail", ['data: {"choices": [{"delta"', "data: [DON", "dat", "data: 5", "event: error", ":"])
def test_a_last_event_that_was_cut_is_dropped(tail: str) -> None:
    stream = ended(encode(text("a")) + tail.encode())
    assert (stream.error, stream.done, stream.tokens_out) == (None, False, 1)


@pytest.mark.parametrize("key", ["prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize(
    "value",
    [
        *(7.5, -1, -1.0, True, False, "x", "-3", "7.0", "٧", "9" * 11, "", " 7", [], [7], {}, {"a": {"b": 1}}),
        *(2**31, 2**32 - 1, 2**64, 10**400, 1e300),
    ],
)
def test_a_count_that_is_none_costs_nothing_else(key: str, value: Any) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 40, key: value}
    stream = fed(encode(text("a"), {"choices": [], "usage": usage}, "[DONE]"))
    expected = (5, 1) if key == "completion_tokens" else (None, 40)
    assert (stream.tokens_in, stream.tokens_out, stream.error, stream.done) == (*expected, None, True)
    assert ODD_USAGE in stream.oddities


def test_a_count_of_thousands_of_digits() -> None:
    usage = b'{"choices": [], "usage": {"prompt_tokens": %b, "completion_tokens": 4}}' % (b"9" * 5000)
    stream = fed(encode(text("a")) + b"data: " + usage + b"\n\n" + encode("[DONE]"))
    assert (stream.tokens_in, stream.tokens_out, stream.error, stream.done) == (None, 4, None, True)
    assert stream.oddities == {ODD_USAGE, HUGE_NUMBER}


@pytest.mark.parametrize(("value", "count"), [(7.0, 7), ("7", 7), (0, 0), (MAX_TOKENS, MAX_TOKENS), (-0.0, 0)])
def test_counts_in_other_clothes(value: Any, count: int) -> None:
    stream = fed(encode({"choices": [], "usage": {"prompt_tokens": value, "completion_tokens": value}}))
    assert (stream.tokens_in, stream.tokens_out, stream.oddities) == (count, count, set())
    assert type(stream.tokens_in) is type(stream.tokens_out) is int


@pytest.mark.parametrize("usage", [[], "none", 5, True, [{"prompt_tokens": 5}]])
def test_usage_that_is_no_object(usage: Any) -> None:
    stream = fed(encode(text("a"), {"choices": [], "usage": usage}, "[DONE]"))
    assert (stream.error, stream.done, stream.tokens_in, stream.oddities) == (None, True, None, {ODD_USAGE})


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_usage_that_says_nothing(usage: Any) -> None:
    stream = fed(encode({**text("a"), "usage": usage}))
    assert (stream.error, stream.tokens_in, stream.tokens_out, stream.oddities) == (None, None, 1, set())


def test_an_odd_count_does_not_undo_a_good_one() -> None:
    stream = fed(encode(USAGE, {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": None}}))
    assert (stream.tokens_in, stream.tokens_out, stream.oddities) == (5, 40, {ODD_USAGE})


@pytest.mark.parametrize(
    ("payload", "oddity"),
    [
        (b'{"choices": [{"delta": {"content": "\\ud83d"}}]}', HALF_PAIR),
        (b'{"choices": [{"delta": {"content": "\\uDE00 x"}}]}', HALF_PAIR),
        (b'{"choices": [{"delta": {"content": "\xf0\x9f"}}]}', BAD_UTF8),
        (b'{"choices": [{"delta": {"content": "a"}}], "x": "\xff"}', BAD_UTF8),
        (b'{"choices": [{"delta": {"content": "\xed\xa0\xbd"}}]}', BAD_UTF8),
        (b'{"choices": [{"delta": {"content": "a"}, "logprob": -Infinity}]}', NO_NUMBER),
        (
            b'{"choices": [{"delta": {"content": "a"}, "logprobs": [NaN, Infinity]}], "usage": {"prompt_tokens": NaN}}',
            NO_NUMBER,
        ),
    ],
)
def test_json_that_is_none_by_the_letter_is_read_and_noted(payload: bytes, oddity: str) -> None:
    stream = fed(b"data: " + payload + b"\n\n", encode(text("b"), USAGE, "[DONE]"))
    assert (stream.first_token, stream.tokens_in, stream.tokens_out, stream.error) == (0, 5, 40, None)
    assert stream.oddities == {oddity}


@pytest.mark.parametrize(
    ("delta", "is_token"),
    [
        ({"content": None}, False),
        ({"content": []}, False),
        ({"content": [{"type": "text", "text": ""}]}, False),
        ({"content": [{"type": "text", "text": "a"}]}, True),
        ({"content": " "}, True),
        ({"content": "", "reasoning": "a"}, True),
        ({"refusal": "no"}, True),
        ({"role": "assistant", "tool_calls": []}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
    ],
)
def test_what_a_token_is(delta: dict[str, Any], is_token: bool) -> None:
    stream = fed(encode({"choices": [{"delta": delta}]}))
    assert (stream.first_token is not None, stream.error) == (is_token, None)


def test_any_choice_counts_once() -> None:
    stream = fed(encode({"choices": [{"delta": {}}, {"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}))
    assert stream.tokens_out == 1


@settings(deadline=None)
@given(
    contents=st.lists(st.text(max_size=8), max_size=10),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 100_000), max_size=40),
)
def test_however_the_stream_is_cut(contents: list[str], newline: str, cuts: list[int]) -> None:
    events: list[dict[str, Any] | str] = [ROLE, *(text(content) for content in contents), USAGE, "[DONE]"]
    data = encode(*events, newline=newline)
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    stream = fed(*(data[a:b] for a, b in itertools.pairwise(edges)))

    # the data line of an event has ended with the first byte of its line end, a CR of a CRLF included
    line_ends = [len(encode(*events[:i], newline=newline)) - 2 * len(newline) + 1 for i in range(1, len(events) + 1)]
    with_text = [line_ends[i + 1] for i, content in enumerate(contents) if content]

    def piece_holding(byte: int) -> int:
        return next(number for number, edge in enumerate(edges[1:]) if edge >= byte)

    assert stream.first_token == (piece_holding(with_text[0]) if with_text else None)
    assert stream.last_token == (piece_holding(with_text[-1]) if with_text else None)
    assert (stream.tokens_in, stream.tokens_out, stream.done) == (5, 40, True)


@pytest.mark.parametrize(
    "payload",
    [
        b"{broken",
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b'{"choices": 5}',
        b'{"choices": "text"}',
        b'{"choices": {"a": 1}}',
        b'{"choices": [5]}',
        b'{"choices": [{"delta": 5}]}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"content": [5]}}]}',
        b"\xff\xfe{",
        b"[" * 100_000,
        b"9" * 5000,
        b"<html>",
    ],
)
def test_what_is_no_completion_chunk(payload: bytes) -> None:
    stream = ended(encode(text("a")) + b"data: " + payload + b"\n\n" + encode("[DONE]"))
    assert stream.unreadable
    assert stream.error in ("event is not json", "event is not a completion chunk")
    assert (stream.tokens_out, stream.done) == (1, False)


def test_a_line_that_never_ends() -> None:
    stream = fed(encode(text("a")), b"data: " + b"a" * MAX_EVENT_BYTES)
    assert (stream.error, stream.first_token) == ("event too long", 0)


KEYS = st.sampled_from(
    [
        *("choices", "delta", "content", "text", "finish_reason", "tool_calls", "usage", "prompt_tokens"),
        *("completion_tokens", "error", "detail", "object", "message", "type"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([b"data: ", b"data:", b"event: ", b"event: error", b": ", b"id: ", b"", b"data: [DONE]"])


@settings(deadline=None, max_examples=300)
@given(
    parts=st.lists(
        st.tuples(FIELDS, JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=9), st.booleans()),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_garbage_never_raises_and_reads_the_same_however_it_is_cut(
    parts: list[tuple[bytes, bytes, bool]], cuts: list[int]
) -> None:
    data = b"".join(field + value + (b"\n\n" if blank else b"\n") for field, value, blank in parts)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    whole, cut = ended(data), ended(*(data[a:b] for a, b in itertools.pairwise(edges)))
    for name in ("error", "unreadable", "done", "finished", "tokens_in", "tokens_out", "oddities"):
        assert getattr(whole, name) == getattr(cut, name)
    assert (whole.first_token is None) == (cut.first_token is None)
    assert all(count is None or 0 <= count <= MAX_TOKENS for count in (whole.tokens_in, whole.tokens_out))
