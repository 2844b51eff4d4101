"""Traces of faults on a cluster, found by their labels and not by a journal."""

from __future__ import annotations

from typing import Any


def residue(runtime: Any) -> list[str]:
    """Every trace; what cannot be looked at is named as one."""
    return []


def sweep(runtime: Any) -> tuple[list[str], list[str]]:
    """Undo all that ``residue`` would find. Returns what was done and what could not be."""
    return [], []
