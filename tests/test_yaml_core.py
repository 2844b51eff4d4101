"""Parameters are read as YAML 1.2 says, and what is written is read back the same by both versions of YAML."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.yaml_core import MAX_NODES, YamlError, dump, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("No", "No"), ("on", "on"), ("OFF", "OFF"), ("y", "y"),
        ("true", True), ("False", False), ("TRUE", True), ("tRUE", "tRUE"),
        ("010", 10), ("-007", -7), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("0o8", "0o8"), ("+5", 5), ("-0", 0),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1_000", "1_000"), ("1,000", "1,000"), ("1_0.5", "1_0.5"),
        (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1E-7", 1e-7), ("12e03", 12000.0), ("-1.5e+2", -150.0), (".", "."),
        ("e3", "e3"), ("1e", "1e"), ("-.inf", -math.inf), (".Inf", math.inf), ("inf", "inf"), ("nan", "nan"),
        ("2026-11-29", "2026-11-29"), ("2026-11-29T10:00:00Z", "2026-11-29T10:00:00Z"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("nULL", "nULL"),
        ("'yes'", "yes"), ('"010"', "010"), ("!!str 010", "010"), ("!!float 3", 3.0), ("!!int 010", 10),
        ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_a_value_means_what_the_core_schema_says(text: str, value: Any) -> None:
    found = load(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)
    assert load(text) == value


def test_not_a_number_is_one_in_yaml() -> None:
    assert math.isnan(load("key: .NaN")["key"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("base: &b {x: 1, y: 2}\nall:\n  <<: *b\n  x: 3", {"x": 3, "y": 2}),
        ("base: &b {x: 1, y: 2}\nall:\n  x: 3\n  <<: *b", {"x": 3, "y": 2}),
        ("base: &b {x: 1}\nother: &o {x: 2, z: 3}\nall: {<<: [*b, *o], y: 5}", {"x": 1, "z": 3, "y": 5}),
        ("base: &b {x: 1}\nmiddle: &m {<<: *b, y: 2}\nall: {<<: *m, x: 9}", {"x": 9, "y": 2}),
        ("base: &b {x: 1}\nmiddle: &m {<<: *b, x: 2}\nall: [{<<: *m}, {<<: *m, y: 1}]", [{"x": 2}, {"x": 2, "y": 1}]),
        ("base: &b {}\nall: {<<: *b}", {}),
        ("all: {<<: []}", {}),
        ("base: &b {n: {deep: [1, 2]}}\nall: {<<: *b, m: 1}", {"n": {"deep": [1, 2]}, "m": 1}),
        ("all: {'<<': 1}", {"<<": 1}),
    ],
)
def test_merge_keys(text: str, value: Any) -> None:
    assert load(text)["all"] == value


def test_what_an_alias_repeats_is_not_shared() -> None:
    document = load("one: &a {list: [1]}\nother: *a\nthird: {<<: *a}")
    document["one"]["list"].append(2)
    assert document["other"] == document["third"] == {"list": [1]}


def bomb(shape: str) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + shape.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is given twice"),
        ("a: {x: 1, <<: {x: 2}, x: 3}", "key 'x' is given twice"),
        ("a: {<<: {x: 1}, <<: {y: 1}}", "key '<<' is given twice"),
        ("base: &b {x: 1, x: 2}\na: {<<: *b}", "line 1, column 17: key 'x' is given twice"),
        ("a: {<<: 3}", "takes a mapping"),
        ("a: {<<: [{x: 1}, 3]}", "takes a mapping"),
        ("a: &a [1, *a]", "nested too deeply"),
        ("a: &a {b: {c: *a}}", "nested too deeply"),
        ("a: &a {<<: *a}", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "{b: " * 200 + "1" + "}" * 200, "nested too deeply"),
        (bomb("[{}]"), f"more than {MAX_NODES} values"),
        (bomb("{{<<: [{}]}}"), f"more than {MAX_NODES} values"),
        ("a: 1\n---\nb: 2", "line 2, column 1: more than one document"),
        ("a: *nowhere", "undefined alias"),
        ("a:\n\tb: 1", "line 2, column 1: found character '\\t' that cannot start any token (use spaces)"),
        ("a: [1", "line 1"),
        ("a: 'open", "line 1"),
        ("1: x", "line 1, column 1: a key must be a word; quote it: '1'"),
        ("true: x", "a key must be a word; quote it: 'true'"),
        ("? [a, b]\n: 1", "a key must be a word, not a list"),
        ("a: !!set {x}", "tag 'tag:yaml.org,2002:set' is not known"),
        ("a: !!binary aGk=", "is not known"),
        ("a: !!timestamp 2026-11-29", "is not known"),
        ("a: !!python/object/apply:os.system [true]", "is not known"),
        ("a: !own 3", "tag '!own' is not known"),
        ("a: !!int yes", "'yes' is no int in YAML 1.2"),
        ("a: !!bool yes", "'yes' is no bool"),
        ("a: " + "9" * 5000, "more than 300 digits"),
        ("a: \x07", "position 3: character #x0007 is not allowed"),
        (b"a: \xff", "position 3: not valid utf-8"),
        (b"\xff\xfea\x00:\x00\x00", "not valid utf-16"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_says_where(text: str | bytes, problem: str) -> None:
    with pytest.raises(YamlError) as caught:
        load(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa: 1\nb: x",
        "a: 1\r\nb: x\r\n",
        b"\xef\xbb\xbfa: 1\nb: x",
        "a: 1\nb: x".encode("utf-16"),
        "a: 1\nb: x\n...",
        "%YAML 1.1\n---\na: 01\nb: x",
        "# é\na: 1 # \tx\nb: x",
    ],
)
def test_marks_line_ends_and_directives_change_nothing(text: str | bytes) -> None:
    assert load(text) == {"a": 1, "b": "x"}


def test_an_empty_text_is_no_document() -> None:
    assert load("") is None
    assert load("# nothing\n") is None


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        ["yes", "010", "1:30", "1e3", ".5", "0o17", "~", "=", "<<", "2026-01-01", "- a", "a: b", "#", "\t"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
@example({"a": [1e16, 1e-7, -0.0, 1e22, 5e-324, 123456789012345680.0], "b": [], "c": {}, "d": ""})
@example(["\x85", "\u2028", "\ufeff", "a\nb", " a ", "a\n\n b\n", "x" * 200, "\U0001f600", "no: \t"])
@example({"on": 1, "1": 2, "null": 3, "<<": 4, "": 5})
def test_what_is_written_is_read_back_the_same(value: Any) -> None:
    text = dump(value)
    found = load(text)
    assert found == value
    assert repr(found) == repr(value)  # 1 and 1.0, 0.0 and -0.0, True and 1 are told apart
    assert repr(yaml.safe_load(text)) == repr(value)
