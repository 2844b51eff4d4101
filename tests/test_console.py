from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time, pathlib
from tasks.console import Console, outlive_readers
outlive_readers()
console = Console()
sys.stdin.readline()
try:
    for _ in range(3):
        console.say("nobody hears this")
        print("nor this")
finally:
    pathlib.Path(sys.argv[1]).touch()
print("nor that", file=sys.stderr)
pathlib.Path(sys.argv[2]).touch()
"""


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    """Clean-up speaks: it must come to its end when the process that reads its lines was killed."""
    cleaned, ended = tmp_path / "cleaned", tmp_path / "ended"
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PROGRAM, str(cleaned), str(ended)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer, stderr=writer, text=True) as child:
        os.close(writer)
        os.close(reader)
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.close()
        assert child.wait() == 0
    assert cleaned.exists()
    assert ended.exists()


def test_a_command_whose_reader_has_gone_ends_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tasks.cli", "methods"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_without_output_or_errors_begins() -> None:
    program = "from tasks.console import outlive_readers; outlive_readers()"
    closed = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(closed).returncode == 0
