"""Merge patch, JSON patch, strategic merge and server-side apply on plain documents."""

from __future__ import annotations

import copy
from typing import Any

MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
}
"""Lists that are maps by one of these keys. The real server reads them from the schema."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any, field: str = "") -> Any:
    """Like ``merge_patch``, but lists that are maps are merged by their key; ``$patch: delete`` removes an item."""
    if isinstance(patch, dict):
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategic_merge(result.get(key), value, key)
        return result
    if isinstance(patch, list) and (by := _merge_key(field, patch)):
        items = {item[by]: item for item in target or () if by in item}
        for item in patch:
            if item.get("$patch") == "delete":
                items.pop(item[by], None)
            else:
                items[item[by]] = strategic_merge(items.get(item[by]), item)
        return list(items.values())
    return copy.deepcopy(patch)


def json_patch(target: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902: add, remove, replace, test. Raises ValueError when an operation does not fit."""
    result = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        node = result
        try:
            for part in parents:
                node = node[int(part)] if isinstance(node, list) else node[part]
            _operate(node, last, operation)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the path {operation['path']} does not exist") from error
    return result


def _operate(node: Any, last: str, operation: dict[str, Any]) -> None:
    key: Any = last
    if isinstance(node, list):
        key = len(node) if last == "-" else int(last)
    match operation["op"]:
        case "add" if isinstance(node, list):
            node.insert(key, operation["value"])
        case "add":
            node[key] = operation["value"]
        case "replace":
            if not isinstance(node, list) and key not in node:
                raise KeyError(key)
            node[key] = operation["value"]
        case "remove":
            del node[key]
        case "test":
            if node[key] != operation["value"]:
                raise ValueError(f"testing value {operation['path']} failed")
        case other:
            raise ValueError(f"unknown operation {other}")


def apply_patch(live: Any, before: Any, wanted: Any, field: str = "") -> Any:
    """Three-way merge of server-side apply: ``before`` is what the same manager applied last."""
    if isinstance(wanted, dict):
        result = dict(live) if isinstance(live, dict) else {}
        old = before if isinstance(before, dict) else {}
        for key in old.keys() - wanted.keys():
            remains = _without(result.get(key), old[key], key)
            if remains is None:
                result.pop(key, None)
            else:
                result[key] = remains
        for key, value in wanted.items():
            result[key] = apply_patch(result.get(key), old.get(key), value, key)
        return result
    if isinstance(wanted, list) and (by := _merge_key(field, wanted)):
        old_items = {item[by]: item for item in before or () if by in item}
        items = {item[by]: item for item in live or () if by in item}
        kept = {item[by] for item in wanted}
        for key in old_items.keys() - kept:
            items.pop(key, None)
        for item in wanted:
            items[item[by]] = apply_patch(items.get(item[by]), old_items.get(item[by]), item)
        return list(items.values())
    return copy.deepcopy(wanted)


def _without(live: Any, owned: Any, field: str) -> Any:
    """``live`` less what ``owned`` set in it; None when nothing is left."""
    if isinstance(live, dict) and isinstance(owned, dict):
        left = {}
        for key, value in live.items():
            remains = _without(value, owned[key], key) if key in owned else value
            if remains is not None:
                left[key] = remains
        return left or None
    if isinstance(live, list) and isinstance(owned, list) and (by := _merge_key(field, owned)):
        gone = {item[by] for item in owned}
        return [item for item in live if item.get(by) not in gone] or None
    return None


def conflicts(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Fields that ``wanted`` would change although ``live`` has another value."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return [
            each
            for key, value in wanted.items()
            if key in live
            for each in conflicts(live[key], value, f"{path}.{key}")
        ]
    return [path] if live != wanted else []


def _merge_key(field: str, items: list[Any]) -> str | None:
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    return next((key for key in MERGE_KEYS.get(field, ()) if all(key in item for item in items)), None)
