"""What scripts/generate writes is current."""

from __future__ import annotations

import subprocess
import sys

from tests.command import ROOT


def test_generated_files_are_current() -> None:
    """Run scripts/generate where this fails."""
    command = [sys.executable, ROOT / "scripts" / "generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
