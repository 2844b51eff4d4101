"""Takes what users wrote, and what a team wants hidden, out of logs and spans before they reach a case.

Patterns are those of RE2 (no look-around), which Arrow applies to whole columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tasks.case import SIGNALS, SignalName, as_signal

MASK: Final = "(masked)"

_SPEAKER: Final = r"user|human|assistant"
_KEY: Final = (
    r"(?:(?:(?:prompt|generated|input|output|reasoning|delta|raw|user|system|full|negative|chat|engine|encoder|decoder"
    r"|rendered|formatted|request|response|model|assistant|text)_)?"
    r"(?:prompts?|messages|contents?|texts?|inputs?|outputs?|completions?)(?:_\d{1,2})?"
    rf"|(?:last[_ ]|latest[_ ])?(?:{_SPEAKER}|chat)[_ ]messages?)"
)
_ASKED: Final = r"(?:\w{1,20}[_ ])?(?:prompts?|questions?|instructions?|query|queries|utterances?|thinking|reasoning)"
_QUOTED_KEY: Final = (
    r"(?:stop|bad_words|reasoning|thinking|refusal|arguments|query|queries|documents?|questions?|instructions?|input_value"
    r"|system|suffix|function_call|functions|utterances?|transcripts?|(?:chat_)?history|conversations?)"
)
"""What holds text of users only where it stands in quotes; ``input_value``: of pydantic's errors."""
_IDS: Final = r"(?:(?:prompt|generated|input|output)_(?:token_)?ids|token_ids)"
_SEPARATOR: Final = r"""\\*['"]?\s*[:=]\s*"""
_QUOTED: Final = (
    r"""'(?:[^'\\]|\\+[^'\\]|\\(?:\\\\)*')*(?:'|\\.*)?|"(?:[^"\\]|\\+[^"\\]|\\(?:\\\\)*")*(?:"|\\.*)?"""
    r"""|\\'(?:[^'\\]|\\+[^'\\]|\\{3}(?:\\{4})*')*(?:\\'|['\\].*)?"""
    r"""|\\"(?:[^"\\]|\\+[^"\\]|\\{3}(?:\\{4})*")*(?:\\"|["\\].*)?"""
    r"""|\\\\+['"].*"""
)
"""Text in quotes, as it is or escaped once. Where backslashes leave open whether a quote ends it, and where it is
escaped more often, it reaches to the end: rather too much is hidden than too little."""
_STRINGS: Final = r"""\[\s*(?:(?:'[^'\\]*'|"[^"\\]*")\s*,?\s*)*\]"""
_FIGURES: Final = r"""[()\d\s,.'"-]"""
_NUMBERS: Final = (
    r"(?:tensor\(|array\((?:'\w',\s*)?)?"
    rf"(?:\[(?:{_FIGURES}|\[(?:{_FIGURES}|\[{_FIGURES}*\])*\])*\]|\[(?:{_FIGURES}|[\[\]])*|\(\s*\d{_FIGURES}*)"
)
_VALUE: Final = rf"(?:[bru]?(?:{_QUOTED})|{_STRINGS}|[\[{{].*)"
_SCHEMA: Final = r"structured_outputs|guided_decoding|response_format|extra_args|tools"
_ROLE: Final = rf"\\*['\"]?(?:{_SPEAKER}|tool|function)\b"
_ENCODED_QUOTE: Final = r"(?:\\+x2[27]|\\+u002[27]|&quot;|&#3[49];|%2[27])"
"""A quote as NGINX writes it into a log, as JSON may, as HTML and as a URL."""
_IN_QUERY: Final = r"""(?is)([?&](?:prompt|text|input|inputs|query|q|messages))(=)[^\s&'"#\\]*"""
PROMPTS_IN_LOGS: Final = (
    rf"(?is)\b({_KEY})({_SEPARATOR})(?:[bru]?(?:{_QUOTED})|{_STRINGS}|[\[{{].*|\(\s*\\*['\"\[{{].*)",
    rf"(?is)\b({_IDS})({_SEPARATOR}){_NUMBERS}",
    _IN_QUERY,
    rf"(?is)\b({_QUOTED_KEY})({_SEPARATOR}){_VALUE}",
    rf"(?is)\b({_ASKED}(?:\s(?:is|was|text|string))?)(\s+)[bru]?(?:{_QUOTED})",
    rf"(?is)(\brole{_SEPARATOR}{_ROLE}.*?\bmessage)({_SEPARATOR}){_VALUE}",
    rf"(?is)\b(message)({_SEPARATOR})[bru]?(?:{_QUOTED})[,\s]*\\*['\"]?role{_SEPARATOR}{_ROLE}.*",
    rf"(?is)((?:\b|22|27)(?:{_KEY}|{_QUOTED_KEY}|{_SCHEMA}))({_ENCODED_QUOTE}\s*(?::|=|%3A|%3D)).*",
    r"(?s)\b(User|Human|Assistant)(:\s).*",
    rf"(?is)\b({_SCHEMA})({_SEPARATOR})(?:\w+\(|\\*['\"\[{{]).*",
    r"(?is)(<[|｜][^<>|｜]{1,40}[|｜]>|<(?:start_of_turn|\w*bos\w*)>|\[/?INST\])().*",
)
"""Places where engines and servers print what a user asked and what was answered, such as vLLM's ``Received request
…: prompt: '…'`` and ``Generated response …: output: '…'``, and SGLang's ``text='…'``. Key and separator stay. A list
or an object that holds more than plain texts is hidden with all that follows it, and so is all that follows the first
marker of a chat template, and the first ``User:`` of a dialogue. ``message`` alone is what errors are called: it is
hidden beside a ``role`` only."""

_PLAIN_KEY: Final = (
    rf"\b(?:{_KEY}(?:\s?(?:\[\w{{0,8}}\]|\([^()\n]{{0,40}}\)|\#?\d{{1,9}}|text|string))?"
    rf"|{_ASKED}(?:\s(?:received|for|from|of|is|was|by)\b[\w .\#-]{{0,40}})?)"
    r"""\\*['"]?\s*(?:[:=]>?|->|\s-\s)\s*"""
)
_FIELD: Final = r"""\\*['"]?[\w.-]+\\*['"]?\s*[:=]"""
_CLOSED: Final = r"""(?:\s*[)\]}>]|\\*['"])*"""
_BETWEEN: Final = r"(?:\s*[,&|;]\s*|\s+)"
_NUMBER: Final = r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?:\s?(?:%|tokens?|chars|bytes|[kmg]i?b|[mu]?s\b))?"
_NOTHING: Final = r"\(masked\)|none|null|true|false"
_KNOWN: Final = (
    r"(?:\w+_)?(?:reason|status|state|code|model|engine|id|lora_request|params|priority|level|kind|type|node|rank|worker"
    r"|replica|method|path|url|host|port|latency|duration|time|finished|stream)"
)
"""Fields whose values are no text of users."""
_ENDED: Final = r"""(?![\w/%+#@-]|\.\w|\\*['"]?\s*[:=])"""
"""After a number or a mask: it is all of a value. Without it the two branches of ``_NEXT`` read one field in two ways,
and a line of many fields takes a time that doubles with each."""
_NEXT: Final = (
    rf"{_CLOSED}{_BETWEEN}\\*['\"]?"
    rf"(?:[\w.-]+(?:\s[\w.-]+)?\\*['\"]?\s*[:=]\s*\\*['\"]?[\[{{(]?(?:{_NOTHING}|{_NUMBER}){_ENDED}"
    rf"|{_KNOWN}\\*['\"]?\s*[:=]\s*\\*['\"]?[\w./:%+#@-]+)"
)
_OVER: Final = rf"{_CLOSED}(?:\s*(?:[.,]\s*)?\Z|\s*[,&|;]\s*(?:{_FIELD}|\\*['\"]?[{{\[])|\s+[\w.-]+=|\s+HTTP/)"
_OVER_NUMBER: Final = rf"(?>{_NEXT}){{0,60}}{_CLOSED}\s*(?:[.,]?\s*\Z|HTTP/)"
_PLAIN: Final = re.compile(rf"(?ais)({_PLAIN_KEY})(?!\\*['\"]?(?:(?:{_NOTHING}){_OVER}|{_NUMBER}{_OVER_NUMBER}))\S.*")
_MAY_BE_PLAIN: Final = rf"(?is){_PLAIN_KEY}\S"
"""Text without quotes (``prompt: hello``). Nothing says where it ends, so all of the line after the key is hidden,
unless that is None or a mask and then the end or a further key, or a number and then nothing but further numbers:
``prompt: 1) hello`` is text, and so is ``prompt: 5, Name: hello``."""

_ATTRIBUTE: Final = (
    r"gen_ai\.(?:prompt|completion|content|input|output|system_instructions|tool\.(?:call\.(?:arguments|result)|definitions)"
    r"|request\.stop_sequences|retrieval)|embedding\.(?:text|embeddings)|retrieval\.documents"
    r"|reranker\.(?:query|input|output)|llm\.(?:prompts|prompt_template|completions|input|output)|traceloop\.entity\.(?:input|output)|input\.value|output\.value"
    r"|langfuse\.(?:observation|trace)\.(?:input|output)|mlflow\.(?:spanInputs|spanOutputs|chat)|ai\.(?:prompt|response)"
    r"|haystack\.component\.(?:input|output)|http\.(?:request|response)\.body|tool_call\.function\.arguments"
)
_WHOLE_NAME: Final = (
    r"(?:user_|system_)?prompts?|completions?|messages|inputs?|outputs?|query|question|(?:request|response)_data"
)
_NAMED: Final = rf"(?:(?:{_ATTRIBUTE})[^\"]*|{_WHOLE_NAME})"
PROMPTS_IN_SPANS: Final = rf'"({_NAMED})"(\s*:\s*)"(?:[^"\\]|\\.)*"?'
"""Attributes in which tracing libraries keep prompts and answers, by the names of OpenTelemetry, OpenInference,
OpenLLMetry, Langfuse, MLflow, Haystack and the AI SDK."""
_NESTED: Final = rf'"{_NAMED}"\s*:\s*[\[{{]'
_ATTRIBUTE_NAME: Final = re.compile(_NAMED)


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
        text = _without_plain(text)
        for pattern in patterns:
            text = pc.replace_substring_regex(text, pattern=pattern, replacement=MASK)
        return _with(signal, table, "message", text)
    if signal == "spans":
        text = table["attributes"]
        text = pc.replace_substring_regex(text, pattern=PROMPTS_IN_SPANS, replacement=rf'"\1"\2"{MASK}"')
        text = pc.replace_substring_regex(text, pattern=_IN_QUERY, replacement=rf"\1\2{MASK}")
        nested = pc.match_substring_regex(text, pattern=_NESTED)
        if pc.any(nested).as_py():
            pairs = zip(text.to_pylist(), nested.to_pylist(), strict=True)
            values = [_without_nested(each) if hit else each for each, hit in pairs]
            text = pa.chunked_array([pa.array(values, SIGNALS[signal].field("attributes").type)])
        return _with(signal, table, "attributes", text)
    return table


def _without_plain(messages: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return log lines without prompts that stand in no quotes."""
    suspect = pc.fill_null(pc.match_substring_regex(messages, pattern=_MAY_BE_PLAIN), False)
    if not pc.any(suspect).as_py():
        return messages
    pairs = zip(messages.to_pylist(), suspect.to_pylist(), strict=True)
    return pa.chunked_array(
        [pa.array([_PLAIN.sub(rf"\1{MASK}", each) if hit else each for each, hit in pairs], messages.type)]
    )


def _without_nested(attributes: str) -> str:
    """Return attributes (JSON) with lists and objects of prompts masked; none of them if they are no JSON."""
    try:
        found = orjson.loads(attributes)
    except orjson.JSONDecodeError:
        return "{}"
    return json.dumps(_hidden(found), ensure_ascii=False, separators=(",", ":"))


def _hidden(value: Any) -> Any:
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: MASK if isinstance(each, list | dict) and _ATTRIBUTE_NAME.fullmatch(name) else _hidden(each)
        for name, each in value.items()
    }


def _with(signal: SignalName, table: pa.Table, column: str, values: pa.ChunkedArray) -> pa.Table:
    index = SIGNALS[signal].get_field_index(column)
    return as_signal(signal, table.set_column(index, SIGNALS[signal].field(column), values))
