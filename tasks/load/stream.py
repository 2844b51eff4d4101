"""Read a streamed answer of an OpenAI-compatible server: tokens, usage, how it ended."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from tasks.load.events import Event, EventReader, EventTooLongError

MAX_TOKENS = 2**31 - 1
BAD_UTF8 = "bad UTF-8"
HALF_PAIR = "half a surrogate pair"
HUGE_NUMBER = "number beyond a double"
NO_NUMBER = "NaN or Infinity"
ODD_USAGE = "usage that is no token count"

_ENDED_BADLY = frozenset({"abort", "aborted", "cancelled", "canceled", "error", "failed"})
_OTHER_TEXT = ("reasoning_content", "reasoning", "refusal")
_CALLS = ("tool_calls", "function_call")
_LONG_NUMBER = 400
_DIGITS = re.compile(r"[0-9]{1,10}")
_NO_CHUNK = "event is not a completion chunk"


class CompletionStream:
    """The content of one completion stream so far. Bytes never raise: what cannot be read is an ``error``.

    The role-only first chunk, chunks with empty text and the usage chunk are not tokens: ``first_token`` is the arrival
    of the first chunk with text (answer, reasoning, refusal or a call of a tool), ``last_token`` of the latest. Arrival
    times are whatever the caller passes to ``feed``. ``tokens_in`` and ``tokens_out`` come from the usage chunk;
    without a usable one ``tokens_in`` is unknown and ``tokens_out`` is the number of chunks with text.

    ``done``: ``[DONE]`` has come; what follows it is not read. ``finished``: a chunk gave a reason for its end.
    ``error``: the server said that it failed, or sent what is no such stream (then also ``unreadable``); a short text
    fit for a table. ``oddities``: what was read although it should not have been sent.
    """

    __slots__ = (
        "_chunks",
        "_completion_tokens",
        "_events",
        "_latest",
        "done",
        "error",
        "finished",
        "first_token",
        "last_token",
        "oddities",
        "tokens_in",
        "unreadable",
    )

    def __init__(self) -> None:
        self.first_token: int | None = None
        self.last_token: int | None = None
        self.tokens_in: int | None = None
        self.done = False
        self.finished = False
        self.error: str | None = None
        self.unreadable = False
        self.oddities: set[str] = set()
        self._chunks = 0
        self._completion_tokens: int | None = None
        self._events = EventReader()
        self._latest = 0

    @property
    def tokens_out(self) -> int:
        return self._chunks if self._completion_tokens is None else self._completion_tokens

    def feed(self, body: bytes, arrival: int) -> None:
        """Take the next bytes of the body."""
        self._latest = arrival
        if self.done or self.unreadable:
            return
        try:
            for event in self._events.feed(body, arrival):
                self._event(event)
                if self.done:
                    return
        except EventTooLongError:
            self._unreadable("event too long")
        except _UnreadableError as error:
            self._unreadable(str(error))

    def end(self) -> None:
        """End the body. A last event without its empty line, or without any line end, counts if it can be read."""
        if self.done or self.unreadable:
            return
        try:
            for event in self._events.end(self._latest):
                self._event(event)
        except (EventTooLongError, _UnreadableError):
            return  # cut short: the standard drops it

    def _unreadable(self, reason: str) -> None:
        self.unreadable = True
        self.error = self.error or reason

    def _event(self, event: Event) -> None:
        kind, data, arrival = event
        payload = data.strip()
        if kind and kind.lower() == b"error":
            self.error = self.error or "error in stream"
        elif payload == b"[DONE]":
            self.done = True
        elif payload:
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                if kind not in (b"", b"message"):
                    return  # a type of the server's own
                chunk = self._loads_anyway(payload)
            try:
                self._chunk(chunk, arrival)
            except (AttributeError, KeyError, TypeError) as error:
                raise _UnreadableError(_NO_CHUNK) from error

    def _loads_anyway(self, payload: bytes) -> Any:
        """Parse JSON with a fault that leaves its meaning clear, and note the fault."""
        text = payload.decode("utf-8", "replace")
        constants: list[str] = []
        try:
            chunk = json.loads(text, parse_constant=constants.append, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise _UnreadableError("event is not json") from error
        if not _is_utf8(payload):
            self.oddities.add(BAD_UTF8)
        elif constants:
            self.oddities.add(NO_NUMBER)
        else:
            self.oddities.add(HALF_PAIR if "\\ud" in text.lower() else HUGE_NUMBER)
        return chunk

    def _chunk(self, chunk: Any, arrival: int) -> None:
        choices = chunk.get("choices")
        if chunk.get("error") or (choices is None and _tells_an_error(chunk)):
            self.error = self.error or "error in stream"
            return
        usage = chunk.get("usage")
        if usage is not None:
            self._usage(usage)
        if not choices:
            return
        text = False
        for choice in choices:
            reason = choice.get("finish_reason")
            if reason:
                self._finish(reason)
            text = text or _has_text(choice)
        if text:
            self._chunks += 1
            self.last_token = arrival
            if self.first_token is None:
                self.first_token = arrival

    def _finish(self, reason: Any) -> None:
        name = reason.get("type") if isinstance(reason, dict) else reason
        if isinstance(name, str) and name.lower() in _ENDED_BADLY:
            self.error = self.error or f"finish_reason {name.lower()}"
        self.finished = True

    def _usage(self, usage: Any) -> None:
        """Take the token counts. Invalid ones are left out and noted; one that an earlier chunk gave stays."""
        if not isinstance(usage, dict):
            self.oddities.add(ODD_USAGE)
            return
        tokens_in, tokens_out = (self._count(usage.get(key)) for key in ("prompt_tokens", "completion_tokens"))
        self.tokens_in = self.tokens_in if tokens_in is None else tokens_in
        self._completion_tokens = self._completion_tokens if tokens_out is None else tokens_out

    def _count(self, value: Any) -> int | None:
        count = _whole_number(value)
        if value is not None and count is None:
            self.oddities.add(ODD_USAGE)
        return count


class _UnreadableError(ValueError):
    """An event that no OpenAI-compatible server should send."""


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONG_NUMBER else math.inf


def _whole_number(value: Any) -> int | None:
    """Return ``value`` if it is a number between 0 and ``MAX_TOKENS``, also as a float or a string; else None."""
    whole_float = isinstance(value, float) and value.is_integer()
    if whole_float or (isinstance(value, str) and _DIGITS.fullmatch(value)):
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _tells_an_error(chunk: dict[str, Any]) -> bool:
    """Tell whether an event without ``choices`` is an error object, in one of the shapes that servers use."""
    return (
        "error" in (chunk.get("object"), chunk.get("type"))
        or any(chunk.get(key) is not None for key in ("error", "errors", "detail"))
        or isinstance(chunk.get("message"), str)
    )


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return _is_text(choice.get("text"))
    content = delta.get("content")
    if content:
        return _is_text(content)
    return any(_is_text(delta.get(key)) for key in _OTHER_TEXT) or any(delta.get(key) for key in _CALLS)


def _is_text(value: Any) -> bool:
    """Tell whether ``value`` holds text: a string, or a list of parts with a ``text`` each.

    Raises:
        TypeError: neither.
    """
    if not value:
        return False
    if isinstance(value, str):
        return True
    if isinstance(value, list):
        return any(_is_text(part.get("text")) for part in value)
    raise TypeError(value)
