from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load import events as module
from tasks.load.events import MAX_EVENT_BYTES, Event, EventReader, EventTooLongError

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def read(*pieces: bytes, end: bool = False) -> list[Event]:
    """The events of the pieces, each arriving at the time that is its number."""
    reader = EventReader()
    events = [event for number, piece in enumerate(pieces) for event in reader.feed(piece, number)]
    return [*events, *(reader.end(len(pieces)) if end else ())]


def seen(data: bytes) -> list[tuple[str, str]]:
    """Type and data of the events."""
    return [(kind.decode(), text.decode()) for kind, text, _ in read(data)]


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        # the examples of the standard
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", "YHOO\n+2\n10")]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         [("", "first event"), ("", "second event"), ("", " third event")]),
        (b"data\n\ndata\ndata\n\ndata:", [("", ""), ("", "\n")]),
        (b"data:test\n\ndata: test\n\n", [("", "test"), ("", "test")]),
        (b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", [("add", "73857293"), ("remove", "2153")]),
        # line ends of every kind, and mixed
        (b"data: a\r\rdata: b\n\ndata: c\r\n\r\ndata: d\r\n\ndata: e\n\r", [("", c) for c in "abcde"]),
        # a byte order mark at the start and nowhere else
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("", "a")]),
        (b"\xef\xbb\xbf: comment\ndata: a\n\n", [("", "a")]),
        # an event without data is none, and its type is forgotten
        (b"event: error\n\ndata: a\n\n", [("", "a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [("y", "a")]),
        (b"event\ndata: a\n\n", [("", "a")]),
        (b"retry: 5\nid: 1\n\n", []),
        # field names are taken as they are
        (b"Data: a\n data: b\ndata : c\nxdata: d\n\n", []),
        (b"data::a\n\n", [("", ":a")]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"", []),
    ],
)  # fmt: skip
def test_the_format(data: bytes, events: list[tuple[str, str]]) -> None:
    assert seen(data) == events


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"data: a", ["a"]), (b"data: a\n", ["a"]), (b"data: a\r", ["a"]), (b"data: a\ndata: b", ["a\nb"]), (b"dat", [])],
)
def test_an_event_that_the_end_cut_short(data: bytes, expected: list[str]) -> None:
    assert [text.decode() for _, text, _ in read(data, end=True)] == expected


def test_arrival_is_that_of_the_last_data_line() -> None:
    assert read(b"da", b"ta: a\n", b"data: b\r", b"\n: comment\n", b"\n") == [(b"", b"a\nb", 2)]
    assert read(b"data: a", b"", b"b\n\n") == [(b"", b"ab", 2)]


@settings(deadline=None)
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["data: ", "data:", "data", "event: ", ": ", "id: ", "", "x: "]),
            st.text("ab: ;\ufeff", max_size=5),
        )
        | st.just(("", "")),
        max_size=25,
    ),
    ends=st.lists(LINE_ENDS, min_size=26, max_size=26),
    mark=st.booleans(),
    cuts=st.lists(st.integers(0, 10_000), max_size=40),
)
def test_like_a_reading_by_the_letter_however_it_is_cut(
    lines: list[tuple[str, str]], ends: list[str], mark: bool, cuts: list[int]
) -> None:
    """Against the standard's algorithm written down line by line on decoded text."""
    written = [name + value for name, value in lines]
    text = ("\ufeff" if mark else "") + "".join(line + end for line, end in zip(written, ends, strict=False))
    expected = _by_the_letter(text)
    data = text.encode()
    assert seen(data) == expected
    events = read(*pieces_of(data, cuts))
    assert [(kind.decode(), text.decode()) for kind, text, _ in events] == expected
    one_by_one = read(*(data[n : n + 1] for n in range(len(data))))
    assert [event[:2] for event in one_by_one] == [event[:2] for event in events]


def _by_the_letter(text: str) -> list[tuple[str, str]]:
    events, data, kind = [], "", ""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n")[:-1]:
        if line == "":
            if data != "":
                events.append((kind, data.removesuffix("\n")))
            data, kind = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data += value + "\n"
    return events


@settings(deadline=None)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_any_bytes_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = [event[:2] for event in read(data, end=True)]
    assert [event[:2] for event in read(*pieces_of(data, cuts), end=True)] == whole


BOUND = 5000


@pytest.mark.parametrize("size", [1, 7, 1024, 20_000])
@pytest.mark.parametrize(
    "data",
    [
        b"data: " + b"a" * BOUND,
        b": " + b"a" * BOUND + b"\n",
        (b"data: " + b"a" * 100 + b"\n") * (BOUND // 100),
        b"data\n" * (BOUND // 4 + 1),
    ],
)
def test_what_never_ends_is_bounded(data: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", BOUND)
    reader = EventReader()
    assert [text for _, text, _ in reader.feed(b"data: before\n\n", 0)] == [b"before"]
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(EventTooLongError):
        list(itertools.chain.from_iterable(reader.feed(piece, 0) for piece in pieces))


def test_long_events_are_read() -> None:
    data = 3 * (b"data: " + b"a" * (MAX_EVENT_BYTES - 6) + b"\n\n")
    events = read(*pieces_of(data, list(range(0, len(data), 9999))))
    assert [len(text) for _, text, _ in events] == [MAX_EVENT_BYTES - 6] * 3
