"""``rcarena methods``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer

from tasks.commands.options import AsJson
from tasks.commands.plugins import origin_suffix, show_broken


def methods(as_json: AsJson = False) -> None:
    """List the RCA methods."""
    from tasks.metrics import PROFILES
    from tasks.rca.method import METHODS
    from tasks.rca.registry import list_methods

    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "family": each.family,
            "beyond": each.beyond,
            "origin": asdict(METHODS.origin(each.name)),
            "summary": each.summary,
            "needs": sorted(each.needs),
            "paper": {"title": each.paper.title, "venue": each.paper.venue, "year": each.paper.year},
            "cost": each.cost,
            "seeded": each.seeded,
            "installed": each.installed,
            "missing_packages": list(each.missing_packages),
            "parameters": {
                name: {"default": parameter.default, "type": parameter.kind}
                for name, parameter in each.parameters.items()
            },
        }
        for each in list_methods()
    ]
    show_broken(METHODS)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        state = "ready" if row["installed"] else f"NOT INSTALLED: {', '.join(row['missing_packages'])}"
        also = ", draws random numbers" if row["seeded"] else ""
        also += ", beyond the 24 of arXiv 2603.02057" if row["beyond"] else ""
        typer.echo(f"{row['name']:<20} {row['family']:<12} {row['cost']:<9} needs {needs:<20} {state}{also}")
        typer.echo(f"    {row['summary']}{origin_suffix(row)}")
        typer.echo("    {title}, {venue} {year}".format(**row["paper"]))
        for name, parameter in row["parameters"].items():
            typer.echo(f"    {name} = {parameter['default']}  {parameter['type']}")
    typer.echo(f"In score.methods: a name, or name@profile for a profile of its own ({', '.join(PROFILES)}).")
