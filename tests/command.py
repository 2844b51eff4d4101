"""``rcarena`` as the tests call it."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from click.testing import Result
from typer.testing import CliRunner

from tasks.cli import app

ROOT = Path(__file__).parents[1]


def rcarena(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as people and pods call it."""
    return subprocess.run([sys.executable, "-m", "tasks.cli", *arguments], cwd=ROOT, capture_output=True, text=True)


def rcarena_here(*arguments: str) -> Result:
    """In this process: quicker, for what needs no process of its own."""
    exports = logging.getLogger("tasks.export")
    level = exports.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.chdir(ROOT):
            return CliRunner().invoke(app, arguments)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        exports.setLevel(level)


def params_with_score(folder: Path, **score: object) -> Path:
    """The project's parameters with other values in the section ``score``."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["score"] |= score
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file
