"""``rcarena faults``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer

from tasks.commands.options import AsJson
from tasks.commands.plugins import origin_suffix, show_broken


def faults(as_json: AsJson = False) -> None:
    """List the fault kinds and their parameters."""
    from tasks.inject.catalogue import FAULT_KINDS, list_fault_kinds

    rows: list[dict[str, Any]] = [
        {
            "kind": each.name,
            "origin": asdict(FAULT_KINDS.origin(each.name)),
            "summary": each.summary,
            "group": each.group,
            "root_allowed": each.root_allowed,
            "roles": sorted(each.roles),
            "probe": each.probe,
            "signals": each.signals,
            "metrics": [metric.name for metric in each.metrics],
            "backends": {backend: each.defaults(backend) for backend in each.backends},
            "parameters": {
                name: {"default": field.default, "description": field.description or ""}
                for name, field in each.parameters.model_fields.items()
            },
        }
        for each in list_fault_kinds()
    ]
    show_broken(FAULT_KINDS)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        where = f"{', '.join(row['backends'])}; on {', '.join(row['roles'])}"
        typer.echo(f"{row['kind']} ({where}): {row['summary']}{origin_suffix(row)}")
        typer.echo(f"    measured by: {row['probe']}")
        typer.echo(f"    shows in: {row['signals']}")
        for name, field in row["parameters"].items():
            others = [f"{b}: {defaults[name]}" for b, defaults in row["backends"].items() if name in defaults]
            elsewhere = f" ({', '.join(others)})" if others else ""
            typer.echo(f"    {name} = {field['default']}{elsewhere}  {field['description']}")
