"""Recording: exactly one commit per campaign, data first, nothing of the user's touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.record.campaigns import Campaign, git, set_remote

pytestmark = [
    pytest.mark.skipif(not Path(sys.executable).with_name("dvc").exists(), reason="DVC is not in this environment"),
    pytest.mark.timeout(300),
]


def state(repository: Path) -> tuple[str, ...]:
    """What belongs to the user: HEAD, index and working tree."""
    commands = (["symbolic-ref", "HEAD"], ["rev-parse", "HEAD"], ["status", "--porcelain"], ["worktree", "list"])
    return tuple(git(repository, *command) for command in commands)


def commits(repository: Path) -> list[str]:
    return git(repository, "log", "--format=%s", "main..results").splitlines()


def test_one_commit_whose_data_is_in_the_remote(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    before = state(repository)
    recorded = campaign.record(repository)
    assert (recorded.new, recorded.pushed, recorded.ran_again, recorded.cases) == (True, True, {}, 7)
    assert state(repository) == before
    message = git(repository, "log", "-1", "--format=%B", "results")
    assert message.startswith("Campaign synthetic: 7 cases, nsigma Avg@5 1.00 (chance 0.60)")
    assert "stack: synthetic: 3 replicas" in message
    assert f"RCArena-Campaign: {recorded.campaign_id}" in message
    assert "failed rankings: 0" in message
    assert not [path.name for path in campaign.workspace.root.iterdir() if "recording" in path.name]

    again = campaign.record(repository)
    assert (again.new, again.commit, again.differs) == (False, recorded.commit, False)
    assert len(commits(repository)) == 1

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "-b", "results", str(repository), str(clone))
    set_remote(clone, tmp_path / "store")
    assert (clone / "params.yaml").read_text() == campaign.text
    dvc(clone, "pull")
    for name in ("cases", "scores", "report"):
        assert contents(clone / "workspace" / name) == contents(campaign.workspace.root / name)
    assert "up to date" in dvc(clone, "repro")


def dvc(directory: Path, *arguments: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=directory, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}
