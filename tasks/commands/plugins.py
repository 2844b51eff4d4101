"""Show in lists what comes from other packages, and what of it cannot be used."""

from __future__ import annotations

from typing import Any

import typer

from tasks.plugins import Origin, Registry


def origin_suffix(row: dict[str, Any]) -> str:
    """Name the distribution that a row comes from; empty for ours."""
    origin = Origin(**row["origin"])
    return "" if origin.is_ours else f" (from {origin})"


def show_broken(registry: Registry[Any]) -> None:
    """Print on stderr what other packages offer and cannot be used."""
    for broken in registry.broken():
        typer.echo(f"{registry.noun} {broken}", err=True)
