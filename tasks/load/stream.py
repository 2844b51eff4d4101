"""Server-sent events of the OpenAI streaming endpoints, read by line as they arrive."""

from __future__ import annotations

from typing import Any

import orjson

MAX_LINE_BYTES = 1024 * 1024


class StreamError(ValueError):
    """An event stream that no OpenAI-compatible server should send. The text is short and fit for a table."""


class CompletionStream:
    """What one completion stream has said so far.

    The role-only first chunk, chunks with empty text and the usage chunk are not tokens: ``first_token`` is the arrival
    of the first chunk with text (answer or reasoning), ``last_token`` of the latest. Arrival times are whatever the
    caller passes to ``feed``. ``tokens_in`` and ``tokens_out`` come from the usage chunk; without one ``tokens_in`` is
    unknown and ``tokens_out`` is the number of chunks with text.
    """

    __slots__ = ("_chunks", "_completion_tokens", "_partial", "done", "error", "first_token", "last_token", "tokens_in")

    def __init__(self) -> None:
        self.first_token: int | None = None
        self.last_token: int | None = None
        self.tokens_in: int | None = None
        self.done = False
        self.error = False
        self._chunks = 0
        self._completion_tokens: int | None = None
        self._partial = b""

    @property
    def tokens_out(self) -> int:
        return self._chunks if self._completion_tokens is None else self._completion_tokens

    def feed(self, body: bytes, arrival: int) -> None:
        """Take the next bytes of the body.

        Raises:
            StreamError: an event is not JSON or not a completion chunk, or a line never ends.
        """
        lines = (self._partial + body).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > MAX_LINE_BYTES:
            raise StreamError("line too long")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), arrival)

    def _event(self, payload: bytes, arrival: int) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise StreamError("event is not json") from error
        try:
            self._chunk(chunk, arrival)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise StreamError("event is not a completion chunk") from error

    def _chunk(self, chunk: dict[str, Any], arrival: int) -> None:
        if chunk.get("error"):
            self.error = True
            return
        usage = chunk.get("usage")
        if usage:
            self.tokens_in = _count(usage.get("prompt_tokens"))
            self._completion_tokens = _count(usage.get("completion_tokens"))
        choices = chunk.get("choices")
        if choices and _has_text(choices[0]):
            self._chunks += 1
            self.last_token = arrival
            if self.first_token is None:
                self.first_token = arrival


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


def _count(value: object) -> int | None:
    if value is None or isinstance(value, int):
        return value
    raise TypeError(f"not a token count: {value!r}")
