"""Output while a command runs: progress bars on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Advance = Callable[[int], None]
LOG_WIDTH = 200


class _Pipe(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let a command go on in silence, line by line, when who reads its output or errors has gone.

    Clean-up must not fail because nobody hears of it.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this
            continue
        pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
        lasting = io.TextIOWrapper(pipe, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        setattr(sys, name, lasting)


class Console:
    """Prints lines and progress bars on standard output."""

    def __init__(self) -> None:
        self._rich = rich.console.Console(highlight=False, soft_wrap=True)
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
