"""Run several commands of ``rcarena`` at once, each in a process of its own that ends with this one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

STOP_TIMEOUT_S = 600.0
"""Time (s) for a command to clean up after SIGTERM: undo faults, take a stack down."""
_STAMP = re.compile(r"^ *\d+\.\d s  ")


def rcarena_command(words: Sequence[str]) -> list[str]:
    """Return the command line of ``rcarena`` with ``words``; it gets SIGTERM when the thread that starts it ends."""
    return ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "tasks.cli", *words]


def run_side_by_side(commands: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> dict[str, int]:
    """Run ``rcarena`` with each list of words; say what each says after its name. Return the exit statuses by name.

    An exception in this thread (Ctrl-C) ends all commands and waits until they have cleaned up.
    """
    children: dict[str, subprocess.Popen[str]] = {}
    relays: list[threading.Thread] = []
    try:
        for name, words in commands.items():
            child = subprocess.Popen(
                rcarena_command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            children[name] = child
            relays.append(threading.Thread(target=_relay, args=(name, child.stdout, say), daemon=True))
            relays[-1].start()
        for child in children.values():
            child.wait()
    except BaseException:
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        for child in children.values():
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
        raise
    finally:
        for relay in relays:
            relay.join(1)
    return {name: child.returncode for name, child in children.items()}


def _relay(name: str, output: IO[str], say: Callable[[str], None]) -> None:
    for line in output:
        say(f"{name}: {_STAMP.sub('', line.rstrip())}")
