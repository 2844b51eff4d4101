"""Request bodies: prompts of simple words, so that a prompt has roughly as many tokens as words."""

from __future__ import annotations

import json

import numpy as np

from tasks.params import LoadParams

POOL_WORDS = 1 << 16
_VOCABULARY = 1000


class BodyWriter:
    """Writes the JSON body of each request; the prompt is a slice of a seeded pool of words ``w0`` … ``w999``.

    A slice costs microseconds, so that building the body does not delay the sending.
    """

    def __init__(self, params: LoadParams, model: str, seed: int) -> None:
        numbers = np.random.default_rng(seed).integers(0, _VOCABULARY, size=POOL_WORDS)
        vocabulary = [b"w%d " % number for number in range(_VOCABULARY)]
        self._pool = b"".join([vocabulary[number] for number in numbers])
        lengths = np.array([len(word) for word in vocabulary])
        self._word_start = np.concatenate([[0], np.cumsum(lengths[numbers])])
        quoted_model = json.dumps(model).encode()
        if params.endpoint == "chat":
            self._head = b'{"model":' + quoted_model + b',"messages":[{"role":"user","content":"'
            self._after_prompt = b'"}]'
        else:
            self._head = b'{"model":' + quoted_model + b',"prompt":"'
            self._after_prompt = b'"'
        self._after_prompt += (
            b',"temperature":0' + (b',"ignore_eos":true' if params.ignore_eos else b"") + b',"stream":true'
        )
        self._after_prompt += b',"stream_options":{"include_usage":true},"max_tokens":'

    def body(self, prompt_start: int, prompt_tokens: int, output_tokens: int) -> bytes:
        """Return the body for a prompt of ``prompt_tokens`` words that begins at word ``prompt_start`` of the pool."""
        return b"%b%b%b%d}" % (self._head, self.prompt(prompt_start, prompt_tokens), self._after_prompt, output_tokens)

    def prompt(self, start: int, words: int) -> bytes:
        """Return ``words`` words from ``start`` on; the pool is a ring."""
        rounds, end = divmod(start + words, POOL_WORDS)
        begin_byte, end_byte = int(self._word_start[start]), int(self._word_start[end])
        if rounds == 0:
            return self._pool[begin_byte : end_byte - 1]
        return (self._pool[begin_byte:] + self._pool * (rounds - 1) + self._pool[:end_byte])[:-1]
