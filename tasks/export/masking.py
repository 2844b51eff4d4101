"""Takes what users wrote, and what a team wants hidden, out of logs and spans before they reach a case.

Patterns are those of RE2 (no look-around), which Arrow applies to whole columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.case import SIGNALS, SignalName, as_signal

MASK: Final = "(masked)"

_QUOTED = r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?"""
PROMPTS_IN_LOGS: Final = (
    rf"""(?i)\b(prompt|prompts|messages|prompt_text|generated_text|output_text)(['"]?\s*[:=]\s*)(?:{_QUOTED}|\[.*\])""",
    r"""(?i)\b(prompt_token_ids|output_token_ids)(['"]?\s*[:=]\s*)\[[^\]]*\]?""",
    rf"""(['"]content['"])(\s*:\s*)(?:{_QUOTED})""",
)
"""Places where engines and servers print what a user asked and what was answered, such as vLLM's ``Received request
…: prompt: '…'``. Key and separator stay."""
PROMPTS_IN_SPANS: Final = (
    r'"((?:gen_ai\.(?:prompt|completion|content|input|output|system_instructions)|llm\.(?:prompts|completions|input|output)'
    r'|traceloop\.entity\.(?:input|output)|input\.value|output\.value)[^"]*)"(\s*:\s*)"(?:[^"\\]|\\.)*"',
)
"""Attributes in which tracing libraries keep prompts and answers, by the names of OpenTelemetry, OpenInference and
OpenLLMetry."""


def pattern_problem(pattern: str) -> str:
    """Return why a pattern cannot be used; empty if it can."""
    try:
        pc.replace_substring_regex(pa.array([""]), pattern=pattern, replacement="")
    except pa.ArrowInvalid as error:
        return str(error).splitlines()[0]
    return ""


def masked(signal: SignalName, table: pa.Table, patterns: Sequence[str]) -> pa.Table:
    """Return rows of ``signal``, in its schema, without prompts and without what ``patterns`` match in log lines."""
    if signal == "logs":
        text = table["message"]
        for pattern in PROMPTS_IN_LOGS:
            text = pc.replace_substring_regex(text, pattern=pattern, replacement=rf"\1\2{MASK}")
        for pattern in patterns:
            text = pc.replace_substring_regex(text, pattern=pattern, replacement=MASK)
        return _with(signal, table, "message", text)
    if signal == "spans":
        text = table["attributes"]
        for pattern in PROMPTS_IN_SPANS:
            text = pc.replace_substring_regex(text, pattern=pattern, replacement=rf'"\1"\2"{MASK}"')
        return _with(signal, table, "attributes", text)
    return table


def _with(signal: SignalName, table: pa.Table, column: str, values: pa.ChunkedArray) -> pa.Table:
    index = SIGNALS[signal].get_field_index(column)
    return as_signal(signal, table.set_column(index, SIGNALS[signal].field(column), values))
