"""Label and field selectors of the Kubernetes API."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_SET = re.compile(r"^(?P<key>[^\s!=]+)\s+(?P<operator>in|notin)\s+\((?P<values>[^)]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=]+)\s*(?P<operator>==?|!=)\s*(?P<value>\S*)$")


def label_matcher(selector: str) -> Callable[[dict[str, Any]], bool]:
    """Raises ValueError for a selector that cannot be read."""
    tests = [_label_test(part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]
    return lambda document: all(test(document["metadata"].get("labels") or {}) for test in tests)


def field_matcher(selector: str) -> Callable[[dict[str, Any]], bool]:
    tests = []
    for part in filter(None, selector.split(",")):
        match = _EQUAL.match(part.strip())
        if match is None:
            raise ValueError(f"unable to parse field selector {part!r}")
        tests.append((match["key"].split("."), match["operator"] != "!=", match["value"]))
    return lambda document: all((_field(document, path) == value) == equal for path, equal, value in tests)


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    if match := _SET.match(part):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["operator"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUAL.match(part):
        key, value, equal = match["key"], match["value"], match["operator"] != "!="
        return lambda labels: (labels.get(key) == value) == equal
    if re.fullmatch(r"!?[\w./-]+", part):
        return lambda labels: (part.lstrip("!") in labels) != part.startswith("!")
    raise ValueError(f"unable to parse requirement: {part!r}")


def _field(document: Any, path: list[str]) -> str:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return "" if document is None else str(document)
