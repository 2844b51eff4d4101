from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.load.prompts import POOL_WORDS, BodyWriter
from tasks.params import LoadParams

CHAT = BodyWriter(LoadParams(arrival="constant", rate=1), "toy", seed=5)


@settings(deadline=None)
@given(start=st.integers(0, POOL_WORDS - 1), words=st.integers(1, 300))
def test_a_prompt_has_the_wanted_number_of_words(start: int, words: int) -> None:
    found = CHAT.prompt(start, words).decode().split(" ")
    assert len(found) == words
    assert all(re.fullmatch(r"w\d{1,3}", word) for word in found)


def test_the_pool_is_a_ring() -> None:
    beginning = CHAT.prompt(0, 5)
    assert CHAT.prompt(POOL_WORDS - 3, 8).split(b" ")[3:] == beginning.split(b" ")
    twice_round = CHAT.prompt(7, 2 * POOL_WORDS + 1).split(b" ")
    assert len(twice_round) == 2 * POOL_WORDS + 1
    assert twice_round[:POOL_WORDS] == twice_round[POOL_WORDS : 2 * POOL_WORDS]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_body(endpoint: str) -> None:
    params = LoadParams(arrival="constant", rate=1, endpoint=endpoint)  # type: ignore[arg-type]
    writer = BodyWriter(params, 'a "quoted" model', seed=5)
    body = json.loads(writer.body(10, 4, 33))
    prompt = writer.prompt(10, 4).decode()
    expected_prompt = {"messages": [{"role": "user", "content": prompt}]} if endpoint == "chat" else {"prompt": prompt}
    assert body == {
        "model": 'a "quoted" model',
        **expected_prompt,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 33,
    }


def test_prompts_depend_on_the_seed_alone() -> None:
    params = LoadParams(arrival="constant", rate=1)
    assert BodyWriter(params, "toy", seed=5).prompt(0, 50) == CHAT.prompt(0, 50)
    assert BodyWriter(params, "toy", seed=6).prompt(0, 50) != CHAT.prompt(0, 50)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_ignore_eos_can_be_left_out(endpoint: str) -> None:
    params = LoadParams(arrival="constant", rate=1, endpoint=endpoint, ignore_eos=False)  # type: ignore[arg-type]
    body = json.loads(BodyWriter(params, "toy", seed=5).body(10, 4, 33))
    assert "ignore_eos" not in body
    assert body["max_tokens"] == 33
