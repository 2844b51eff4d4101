"""What the DAGs know of parameters and methods; scripts/generate writes it, as workers cannot import the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_KNOWN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def limits(key: str) -> dict[str, Any]:
    """Return type and limits of a parameter, by its dotted key, as a JSON schema."""
    return dict(_KNOWN["limits"][key])


def bounds(key: str) -> dict[str, Any]:
    """Return the limits of a parameter without its type."""
    return {name: value for name, value in limits(key).items() if name != "type"}


def section(prefix: str) -> dict[str, dict[str, Any]]:
    """Return the limits of all parameters below ``prefix``, by the rest of the key."""
    keys = [key for key in _KNOWN["limits"] if key.startswith(f"{prefix}.")]
    return {key.removeprefix(f"{prefix}."): limits(key) for key in keys}


def cost_of(entry: str) -> str:
    """Return the cost class of an entry of ``score.methods``: ``name`` or ``name@profile``."""
    return str(_KNOWN["costs"].get(entry.partition("@")[0], "cheap"))
