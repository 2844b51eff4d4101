"""``rcarena methods`` and ``rcarena faults``: what parameters may name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer

from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.plugins import Origin, Registry
from tasks.workspace import DEFAULT_WORKSPACE


def methods(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the RCA methods."""
    from tasks.metrics import PROFILES
    from tasks.rca.method import METHODS
    from tasks.rca.registry import list_methods

    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "family": each.family,
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
    _say_what_is_broken(METHODS)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        state = "ready" if row["installed"] else f"NOT INSTALLED: {', '.join(row['missing_packages'])}"
        drawn = ", draws random numbers" if row["seeded"] else ""
        typer.echo(f"{row['name']:<20} {row['family']:<12} {row['cost']:<9} needs {needs:<20} {state}{drawn}")
        typer.echo(f"    {row['summary']}{_from_elsewhere(row)}")
        typer.echo("    {title}, {venue} {year}".format(**row["paper"]))
        for name, parameter in row["parameters"].items():
            typer.echo(f"    {name} = {parameter['default']}  {parameter['type']}")
    typer.echo(f"In score.methods: a name, or name@profile for a profile of its own ({', '.join(PROFILES)}).")


def faults(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the fault kinds and their parameters."""
    from tasks.inject.catalogue import FAULT_KINDS, list_fault_kinds

    rows: list[dict[str, Any]] = [
        {
            "kind": each.name,
            "origin": asdict(FAULT_KINDS.origin(each.name)),
            "summary": each.summary,
            "roles": sorted(each.roles),
            "backends": {backend: each.defaults(backend) for backend in each.backends},
            "parameters": {
                name: {"default": field.default, "description": field.description or ""}
                for name, field in each.parameters.model_fields.items()
            },
        }
        for each in list_fault_kinds()
    ]
    _say_what_is_broken(FAULT_KINDS)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        where = f"{', '.join(row['backends'])}; on {', '.join(row['roles'])}"
        typer.echo(f"{row['kind']} ({where}): {row['summary']}{_from_elsewhere(row)}")
        for name, field in row["parameters"].items():
            others = [f"{b}: {defaults[name]}" for b, defaults in row["backends"].items() if name in defaults]
            elsewhere = f" ({', '.join(others)})" if others else ""
            typer.echo(f"    {name} = {field['default']}{elsewhere}  {field['description']}")


def _from_elsewhere(row: dict[str, Any]) -> str:
    """Name the distribution that a row comes from; empty for ours."""
    origin = Origin(**row["origin"])
    return "" if origin.is_ours else f" (from {origin})"


def _say_what_is_broken(registry: Registry[Any]) -> None:
    for broken in registry.broken():
        typer.echo(f"{registry.noun} {broken}", err=True)
