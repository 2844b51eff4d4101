"""``rcarena actions``."""

from __future__ import annotations

import json
from typing import Any

import typer

from tasks.commands.options import AsJson
from tasks.commands.plugins import show_broken


def actions(as_json: AsJson = False) -> None:
    """List the actions, and what each cures and never cures."""
    from tasks.actions.catalogue import ACTIONS, list_actions

    rows: list[dict[str, Any]] = [
        {
            "action": each.name,
            "summary": each.summary,
            "undo": each.undo,
            "needs": each.needs,
            "roles": sorted(each.roles),
            "backends": list(each.backends),
            "in_cases_of": list(each.made_by),
            "cures": dict(sorted(each.cures.items())),
            "never": sorted(each.never),
        }
        for each in list_actions()
    ]
    show_broken(ACTIONS)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        computed = [f"{name} in `rcarena remediate`" for name in row["in_cases_of"]]
        where = ", ".join([*row["backends"], *computed]) or "no backend"
        typer.echo(f"{row['action']} ({where}; on {', '.join(row['roles'])}): {row['summary']}")
        typer.echo(f"    undo: {row['undo']}")
        typer.echo(f"    needs: {row['needs']}")
        cures = sorted(row["cures"].items(), key=lambda item: (item[1], item[0]))
        typer.echo(f"    cures: {', '.join(f'{kind} ({place})' for kind, place in cures)}")
        typer.echo(f"    never: {', '.join(row['never']) or '–'}")
