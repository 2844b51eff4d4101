"""Prompts and answers are in no log line and no span of a case, however an engine prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.case import SIGNALS, Case, as_signal
from tasks.diagnose.recording import CaseRecording, Window
from tasks.export.masking import MASK, masked
from tests.synthetic import T0, synthetic_case

SECRET = "s3cret"
TEXTS = (
    SECRET,
    f"a {SECRET}",
    f'it\'s "{SECRET}"',
    f"line\nline {SECRET}]",
    f"back\\slash\\ {SECRET}\\",
    f"[1] {{x}} {SECRET} 'q' \\\"",
    f"prompt: '{SECRET}'",
)
FORMS = (
    "Received request cmpl-1: prompt: {repr}, params: None",
    "Generated response chatcmpl-1: output: {repr}, output_token_ids: [77, 77], finish_reason: stop",
    "Finish: obj=Input(rid='1', text={repr}, input_ids=[77, 77]), out={{'text': {repr}, 'output_ids': [77]}}",
    "obj=GenerateReqInput(text=[{repr}, {repr}], input_ids=[[77], [77, 77]], stream=False)",
    "messages=[{{'role': 'user', 'content': {repr}}},\n {{'role': 'x', 'content': {repr}}}]",
    '{{"content": [{{"type": "text", "text": {json}}}], "n": 1}}',
    '{{"prompt": {json}, "input": {{"deep": {json}}}}}',
    "ChatMessage(content={repr}) output_ids=tensor([[77, 77]])",
    "Input: b{repr} text=({repr},)",
    "query={repr}, documents=[{repr}], text_1={repr}, arguments={repr} [type=missing, input_value={repr}, x=1]",
)


def hidden(*lines: str) -> list[str]:
    rows = pd.DataFrame([{"time": pd.Timestamp(T0), "service": "vllm-0", "message": line} for line in lines])
    return [str(each) for each in masked("logs", as_signal("logs", rows), ())["message"].to_pylist()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_no_log_line_holds_what_was_asked_or_answered(form: str, text: str) -> None:
    line = form.format(repr=repr(text), json=json.dumps(text))
    lines = [line, json.dumps({"msg": line}), json.dumps({"log": json.dumps({"msg": line})}), repr(line), f"x\n{line}"]
    lines += [line[:end] for end in range(0, len(line), 9)]
    found = hidden(*lines)
    for before, after in zip(lines, found, strict=True):
        assert SECRET not in after, before
        assert "77" not in after, before
    assert hidden(*found) == found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prompt: 'x', params: y", f"prompt: {MASK}, params: y"),
        (
            "output: 'x', output_token_ids: [1, 2], reason: stop",
            f"output: {MASK}, output_token_ids: {MASK}, reason: stop",
        ),
        ('{"msg":"{\\"prompt\\": \\"x\\"}"}', f'{{"msg":"{{\\"prompt\\": {MASK}}}"}}'),
        ("prompts=['a', \"b\"], n=2", f"prompts={MASK}, n=2"),
        ("prompt: hello, params: y", f"prompt: {MASK}"),
        ("Prompt[0]: hello", f"Prompt[0]: {MASK}"),
        ("x\ncontent = a\nb: c", f"x\ncontent = {MASK}"),
        ("prompt: 'Hello', she said", f"prompt: {MASK}"),
        ("a <|im_start|>user\nhello", f"a <|im_start|>{MASK}"),
        (
            "Received request c-1: params: SamplingParams(n=1, stop=['a b'], seed=3, bad_words=[], extra_args=None).",
            f"Received request c-1: params: SamplingParams(n=1, stop={MASK}, seed=3, bad_words={MASK}, "
            "extra_args=None).",
        ),
        ("Input prompt: hello", f"Input prompt: {MASK}"),
        ("a <｜User｜>hello", f"a <｜User｜>{MASK}"),
        ("engine_prompt: hello", f"engine_prompt: {MASK}"),
        ("POST /generate?n=1&prompt=a%20b HTTP/1.1", f"POST /generate?n=1&prompt={MASK} HTTP/1.1"),
        ("prompt: 5, Name: hello", f"prompt: {MASK}"),
        ("prompt: 5, n: 3, reason: it is so", f"prompt: {MASK}"),
        ('The prompt "hello" is refused', f"The prompt {MASK} is refused"),
        ("INFO 11-30 10:00:00 [x.py:3] User: hello\nAssistant: hi", f"INFO 11-30 10:00:00 [x.py:3] User: {MASK}"),
        ("prompt for request 12: hello", f"prompt for request 12: {MASK}"),
        (
            '"POST / HTTP/1.1" 200 "{\\x22prompt\\x22:\\x22hello\\x22}"',
            f'"POST / HTTP/1.1" 200 "{{\\x22prompt\\x22:{MASK}',
        ),
        ("body=%7B%22prompt%22%3A%22hello%22%7D", f"body=%7B%22prompt%22%3A{MASK}"),
    ],
)
def test_the_rest_of_a_line_stays(line: str, expected: str) -> None:
    assert hidden(line) == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "CUDA out of memory",
        "Avg prompt throughput: 5.1 tokens/s",
        "context: 'a' gpu_ids: [0, 1]",
        "message: 'no answer'",
        "prompt: None, prompt_token_ids: None, prompt_embeds shape: None.",
        "prompts: 3, output: 12.5 tokens",
        "<R (inputs: 3), output: 5}, text=7 n=2 content: (masked)}], input=5&n=1>",
        '{"content": null, "n": 2}',
        "POST /v1/chat/completions 200 12.5ms",
        "The prompt (5000 tokens) is too long",
        "The decoder prompt (length 600) is longer than the maximum model length of 512.",
        "level=error message='connection refused' code=5",
        '{"level":"error","message":"upstream timed out","status":504}',
        "message: 'no answer', role: 'replica'",
        "prompt_tokens=12 completion_tokens=20 total_tokens=32",
        "Finished request cmpl-1: prompt: 12 tokens, output: 20 tokens, finish_reason: stop",
        '{"event":"done","prompt":5,"output":7,"status":"ok","path":"/v1/completions"}',
        "ERROR: message queue is full; user: root; illegal instruction (core dumped)",
        "raise UserError: quota exceeded",
        "Prompt cache hit rate: 12.5%, input queue length: 5",
    ],
)
def test_other_lines_stay(line: str) -> None:
    assert hidden(line) == [line]


FURTHER = (
    'prompt "{}"',
    "user prompt is '{}'",
    "message='{}' role='user'",
    "role: assistant, message: '{}'",
    "user_message: {}",
    "last user message: {}",
    "### Instruction: {}",
    "Human: {}",
    "prompt: 5, Name: {}",
    "prompt=3 name={}",
    "Processing query: {}",
    "chat_history=[('{}', 'x')]",
    "[INST] {} [/INST]",
)
WORD = st.text(st.characters(codec="utf-8", exclude_characters="'\"\\\r\n"), max_size=12)


@settings(max_examples=8, deadline=None)
@given(before=WORD, after=WORD)
@pytest.mark.parametrize("form", FURTHER)
def test_further_ways_to_print_a_prompt(form: str, before: str, after: str) -> None:
    line = form.format(f"so {before} {SECRET} {after}")
    found = hidden(line, f"INFO [x.py:3] {line}", f"x\n{line}")
    assert all(SECRET not in each for each in found), line
    assert hidden(*found) == found


BODY = {
    "model": "toy",
    "messages": [
        {"role": "system", "content": SECRET},
        {"content": [{"type": "text", "text": SECRET}], "role": "user"},
    ],
    "prompt": [SECRET, "b"],
    "system": SECRET,
    "suffix": SECRET,
    "tools": [{"type": "function", "function": {"name": "f", "description": SECRET}}],
    "stop": [SECRET],
    "temperature": 0.5,
    "stream": True,
}
ENCODINGS = {
    "JSON": lambda text: text,
    "NGINX": lambda text: text.replace('"', "\\x22"),
    "JSON in JSON": json.dumps,
    "\\u0022": lambda text: text.replace('"', "\\u0022"),
    "HTML": lambda text: text.replace('"', "&quot;"),
    "URL": quote,
}


@settings(max_examples=12, deadline=None)
@given(keys=st.lists(st.sampled_from(sorted(BODY)), min_size=1, unique=True), compact=st.booleans())
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bodies_of_requests_in_any_order(encoding: str, keys: list[str], compact: bool) -> None:
    body = json.dumps({key: BODY[key] for key in keys}, separators=(",", ":") if compact else None)
    line = f"request body: {ENCODINGS[encoding](body)}"
    (found,) = hidden(line)
    assert SECRET not in found, line
    if set(keys) <= {"model", "temperature", "stream"}:
        assert found == line


def test_a_long_line_takes_no_longer_than_it_must() -> None:
    lines = ["prompt: 5" + end * 2000 + " y" for end in (", a: 1", " a=1", ", model: x)))", " a b", "(", " prompt for")]
    assert all(len(each) < 200 for each in hidden(*lines))


def test_a_field_that_can_be_read_in_two_ways_is_read_once() -> None:
    fields = ", status: 5" * 60
    assert hidden(f"prompt: 5{fields} a b", f"prompt: 5{fields}.") == [f"prompt: {MASK}", f"prompt: 5{fields}."]


WORDS = st.lists(
    st.sampled_from(["hello", "a: b", "it's", '"q"', "5", "None", "(x)", "[1]", "é\n", "{y}", "\\"]), max_size=5
)


@settings(max_examples=25, deadline=None)
@given(
    start=st.sampled_from(
        ["", "5", "None", "'tis", "3 tokens of", "1)", "1) Title:", "1. Title:", '3"', "5 >", "None;", "2 [", '5 "']
    ),
    words=WORDS,
    key=st.sampled_from(["prompt", "user_prompt", "Output", "text", "messages"]),
)
@pytest.mark.parametrize("form", ["{key}: {text}", "{key}={text}", "x {key} -> {text}", "Received r-1: {key}: {text}"])
def test_text_without_quotes_is_hidden(form: str, start: str, words: list[str], key: str) -> None:
    line = form.format(key=key, text=" ".join([start, "so", *words, SECRET, *words]))
    after, cut = found = hidden(line, line[: len(line) // 2])
    assert SECRET not in after + cut, line
    assert after.endswith(MASK)
    assert hidden(*found) == found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", [lambda s: s, lambda s: [s], lambda s: [{"a": [s]}, [s]], lambda s: {"content": s}])
@pytest.mark.parametrize(
    "name",
    [
        "gen_ai.prompt.0.content",
        "input.value",
        "reranker.query",
        "gen_ai.output.messages",
        "langfuse.trace.input",
        "prompt",
    ],
)
def test_no_attribute_of_a_span_holds_it(name: str, form: Any, text: str) -> None:
    attributes = {"a": 1, name: form(text), "deep": {name: form(text)}, "http.url": f"/x?prompt={SECRET}&n=1", "z": "é"}
    (found,) = hidden_spans(json.dumps(attributes))
    assert SECRET not in found
    kept = json.loads(found)
    assert (kept["a"], kept["z"], kept[name]) == (1, "é", MASK)


def hidden_spans(*attributes: str) -> list[str]:
    table = pa.table({"attributes": attributes})
    full = pa.Table.from_arrays(
        [table["attributes"] if f.name == "attributes" else _filled(f, len(attributes)) for f in SIGNALS["spans"]],
        schema=SIGNALS["spans"],
    )
    return [str(each) for each in masked("spans", full, ())["attributes"].to_pylist()]


def _filled(field: pa.Field, rows: int) -> pa.Array:
    return pa.nulls(rows, field.type)


def test_an_incident_of_a_case_holds_none_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = synthetic_case(tmp_path / "cases", kind=None, baseline_s=60)
    logs = pd.DataFrame([{"time": pd.Timestamp(case.record.phases[0].start), "service": case.record.front_end}])
    tables = {"logs": logs.assign(message=f"prompt: '{SECRET}', id=key-{SECRET}")}
    original = Case.table
    monkeypatch.setattr(Case, "table", lambda self, signal: tables.get(signal, original(self, signal)))
    start, end = CaseRecording(case).span(0)
    found = CaseRecording(case, (f"key-{SECRET}",)).record("incident-1", Window(start, start, end), tmp_path / "out")
    monkeypatch.undo()
    assert found.logs["message"].tolist() == [f"prompt: {MASK}, id={MASK}"]
