"""End a command that cannot do its work with one clear message and an exit status (:mod:`tasks.errors`)."""

from __future__ import annotations

from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from tasks.errors import EXIT_FAILED, RCArenaError


class Commands(TyperGroup):
    """Commands that end with a message instead of a traceback when the user can cure what is wrong."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to continue", EXIT_FAILED)
        except RCArenaError as error:
            fail(error, error.exit_status)
        except OSError as error:
            fail(error, EXIT_FAILED)


def fail(error: object, status: int) -> NoReturn:
    """Print ``error`` line by line on stderr and end the command with ``status``."""
    for line in str(error).splitlines() or [type(error).__name__]:
        typer.echo(f"rcarena: {line}", err=True)
    raise typer.Exit(status)
