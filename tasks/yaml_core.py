"""YAML as people write parameters: the core schema of YAML 1.2, and merge keys.

``yes``, ``on`` and ``1:30`` are words, ``010`` is ten, ``0o17`` is fifteen, dates are words. The same key twice, more
than one document, tags of other types, and documents without end (an alias inside its own anchor, aliases of aliases of
aliases …) are refused. What ``dump`` writes is read the same by this module and by readers of YAML 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tasks.errors import RCArenaError

MAX_NODES = 100_000
MAX_DEPTH = 60
MAX_DIGITS = 300

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FORMS = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}


class YamlError(RCArenaError):
    """The text is not a document that can be used; the message is one line and says where."""


class _Composer(yaml.SafeLoader):
    """PyYAML's parser, in pure Python: nesting is bounded by an exception, not by the stack of the process."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as PyYAML has it)


class _Dumper(yaml.SafeDumper):
    """Quotes every word that one of the two versions of YAML would read as something else."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _form in _FORMS.items():
    for _class in (_Composer, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_form.pattern})\\Z"), None)
_Composer.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def load(text: str | bytes) -> Any:
    """Parse the one document of ``text`` (bytes are UTF-8 or, with a byte order mark, UTF-16). None if it is empty.

    The result consists of dict (keys are str), list, str, int, float, bool and None; no part of it is shared.

    Raises:
        YamlError: the text cannot be used.
    """
    try:
        root = yaml.compose(text, Loader=_Composer)
        return None if root is None else _Construction().value(root)
    except RecursionError:
        raise YamlError("nested too deeply") from None
    except yaml.reader.ReaderError as error:
        raise YamlError(_reader_problem(error)) from error
    except yaml.MarkedYAMLError as error:
        raise YamlError(_where(error.problem_mark or error.context_mark) + _problem(error)) from error


def dump(value: Any) -> str:
    """Return ``value`` as YAML in block style, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Construction:
    """Builds Python values from a tree of nodes; aliases are branches that the tree shares."""

    def __init__(self) -> None:
        self._nodes = 0

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            what = "nested too deeply" if depth > MAX_DEPTH else f"more than {MAX_NODES} values with all its aliases"
            raise YamlError(f"{_where(node.start_mark)}{what}")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(each, depth + 1) for each in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, depth)
        raise _unknown_tag(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        """Build a mapping. Its own keys override merged ones, and an earlier merged mapping overrides a later one."""
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        merges = 0
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merges += 1
                if merges > 1:
                    raise YamlError(f"{_where(key_node.start_mark)}key '<<' is given twice; give a list of mappings")
                for mapping in self._merged(value_node, depth):
                    merged = {**mapping, **merged}
                continue
            key = _key(key_node)
            if key in own:
                raise YamlError(f"{_where(key_node.start_mark)}key '{key}' is given twice")
            own[key] = self.value(value_node, depth + 1)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, depth: int) -> Iterator[dict[str, Any]]:
        for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(each, yaml.MappingNode):
                raise YamlError(f"{_where(each.start_mark)}'<<' takes a mapping or a list of mappings")
            yield self.value(each, depth + 1)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(f"{_where(node.start_mark)}a key must be a word, not a list or a mapping")
    if node.tag != f"{_TAG}str":
        raise YamlError(f"{_where(node.start_mark)}a key must be a word; quote it: '{node.value}'")
    return str(node.value)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind in ("str", "merge"):
        return text
    if node.tag == kind or kind not in _FORMS:
        raise _unknown_tag(node)
    form = _INT if kind == "float" and _INT.fullmatch(text) else _FORMS[kind]
    if not form.fullmatch(text):
        raise YamlError(f"{_where(node.start_mark)}'{text[:40]}' is no {kind} in YAML 1.2")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        raise YamlError(f"{_where(node.start_mark)}a number of more than {MAX_DIGITS} digits")
    if form is _INT:
        whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(whole) if kind == "float" else whole
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _unknown_tag(node: yaml.Node) -> YamlError:
    return YamlError(f"{_where(node.start_mark)}tag '{node.tag}' is not known; write the value without it")


def _where(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if "\\t" in problem:
        return f"{problem} (use spaces)"
    return "more than one document" if "but found another document" in problem else problem


def _reader_problem(error: yaml.reader.ReaderError) -> str:
    if error.encoding != "unicode":
        return f"position {error.position}: not valid {error.encoding}"
    return f"position {error.position}: character #x{error.character:04x} is not allowed"
