"""Output while a command runs: progress bars on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
LOG_WIDTH = 200


class _Printer(rich.console.Console):
    """Falls silent when the reader of a pipe has gone: clean-up must not fail because nobody hears of it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, sys.stdout.fileno())
        os.close(silent)


class Console:
    """Prints lines and progress bars on standard output."""

    def __init__(self) -> None:
        self._rich = _Printer(highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def say(self, message: str) -> None:
        """Print a line, after the seconds since the command began."""
        self._rich.print(f"{time.monotonic() - self._started:7.1f} s  {message}", markup=False)

    def show(self, text: str) -> None:
        """Print a result as it is."""
        self._rich.print(text, markup=False)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """Show a progress bar below the lines on a terminal; show nothing in a log."""
        if not self._rich.is_terminal:
            yield lambda steps: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda steps: bar.advance(task, steps)


def table_console() -> rich.console.Console:
    """Return what prints tables: as wide as the terminal, ``LOG_WIDTH`` in a log."""
    console = rich.console.Console(highlight=False)
    return console if console.is_terminal else rich.console.Console(highlight=False, width=LOG_WIDTH)
