"""What the status of an object says."""

from __future__ import annotations

from typing import Any


def condition(document: dict[str, Any], kind: str) -> bool:
    """Whether a condition of the object is true."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)
