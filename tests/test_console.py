from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time, pathlib
from tasks.console import Console
console = Console()
sys.stdin.readline()
try:
    for _ in range(3):
        console.say("nobody hears this")
finally:
    pathlib.Path(sys.argv[1]).touch()
console.say("nor this")
pathlib.Path(sys.argv[2]).touch()
"""


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    """Clean-up speaks: it must come to its end when the process that reads its lines was killed."""
    cleaned, ended = tmp_path / "cleaned", tmp_path / "ended"
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PROGRAM, str(cleaned), str(ended)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer, text=True) as child:
        os.close(writer)
        os.close(reader)
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.close()
        assert child.wait() == 0
    assert cleaned.exists()
    assert ended.exists()
