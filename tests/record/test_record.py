"""Recording and comparing with the real DVC: what is recorded comes back elsewhere, bit by bit, with nothing to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tasks.cli import app
from tasks.record.record import Recorded
from tests.record.campaigns import Campaign, change_requests, git, results_repository, set_remote, spoil_rankings
from tests.record.conftest import copied
from tests.remediate.runs import experiment, written

pytestmark = [
    pytest.mark.skipif(not Path(sys.executable).with_name("dvc").exists(), reason="DVC is not in this environment"),
    pytest.mark.timeout(400),
]


@dataclass(frozen=True)
class Night:
    """A recorded campaign with results of actions; ``before``, ``after``: what belongs to the user, before and after
    recording."""

    repository: Path
    store: Path
    campaign: Campaign
    recorded: Recorded
    before: tuple[str, ...]
    after: tuple[str, ...]


@pytest.fixture(scope="module")
def night(finished: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    repository = results_repository(folder / "repository", remote=folder / "store")
    campaign = copied(finished, folder)
    written(experiment(), campaign.workspace.remediation)
    campaign.report()
    before = _state(repository)
    return Night(repository, folder / "store", campaign, campaign.record(repository), before, _state(repository))


def _state(repository: Path) -> tuple[str, ...]:
    """HEAD, index, working tree."""
    commands = (["symbolic-ref", "HEAD"], ["rev-parse", "HEAD"], ["status", "--porcelain"], ["worktree", "list"])
    return tuple(git(repository, *command) for command in commands)


def test_one_commit_that_says_what_was_measured(night: Night) -> None:
    recorded = night.recorded
    assert (recorded.new, recorded.pushed, recorded.ran_again, recorded.cases) == (True, True, {}, 7)
    assert night.before == night.after
    message = git(night.repository, "log", "-1", "--format=%B", "results")
    assert message.startswith("Campaign synthetic: 7 cases, nsigma Avg@5 1.00")
    for text in (
        "stack: synthetic: 3 replicas",
        "chance",
        "failed rankings: 0",
        f"RCArena-Campaign: {recorded.campaign_id}",
    ):
        assert text in message
    results = {"cases", "scores", "remediation", "report"}
    assert {path.name for path in night.campaign.workspace.root.iterdir()} <= results | {
        *("pairs", "compared", ".record.lock", ".campaign.lock", ".scores.lock")
    }
    again = night.campaign.record(night.repository)
    assert (again.new, again.commit, again.differs) == (False, recorded.commit, False)
    assert git(night.repository, "rev-list", "--count", "main..results") == "1"


def test_a_clone_has_everything_and_nothing_to_do(night: Night, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "-b", "results", str(night.repository), str(clone))
    set_remote(clone, night.store)
    assert (clone / "params.yaml").read_text() == night.campaign.text
    _dvc(clone, "pull")
    for name in ("cases", "scores", "remediation", "report"):
        assert _contents(clone / "workspace" / name) == _contents(night.campaign.workspace.root / name)
    assert "up to date" in _dvc(clone, "repro")


def _dvc(directory: Path, *arguments: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=directory, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def _compare(night: Night, campaign: Campaign, *arguments: str) -> Result:
    root = campaign.workspace.root
    command = ["compare", *arguments, "--repository", str(night.repository), "--workspace", str(root)]
    return CliRunner().invoke(app, [*command, "--params", str(root.parent / "params.yaml")])


def test_the_gate_against_data_that_only_the_remote_has(night: Night, campaign: Campaign, tmp_path: Path) -> None:
    cache = night.repository / ".dvc" / "cache"
    if cache.exists():
        shutil.rmtree(cache)
    nothing = _compare(night, night.campaign, "--gate")
    assert (nothing.exit_code, "no earlier campaign 'synthetic'" in nothing.output) == (0, True), nothing.output

    change_requests(campaign, seed=1)
    green = _compare(night, campaign, "--gate", "--html", str(tmp_path / "page.html"))
    assert green.exit_code == 0, green.output
    assert "no regression against synthetic" in green.output
    assert "nsigma" in green.output
    assert "table:peerwise" in green.output
    assert (tmp_path / "page.html").stat().st_size > 500_000
    assert not cache.exists()

    change_requests(campaign, 1.6, seed=2)
    spoil_rankings(campaign, "nsigma")
    red = _compare(night, campaign, "--gate", "--json")
    assert red.exit_code == 3, red.output
    found = json.loads(red.stdout)["gate"]["regressions"]
    assert any(text.startswith("score: nsigma Avg@5 ") for text in found)
    assert any(text.startswith("stack: latency p50 ") for text in found)
    assert _compare(night, campaign, "--gate", "--margin-latency", "5", "--margin-score", "1").exit_code == 0

    shutil.rmtree(night.store)
    shutil.rmtree(campaign.workspace.root / "compared")
    lost = _compare(night, campaign, night.recorded.campaign_id)
    assert lost.exit_code == 1
    assert "neither in the cache" in lost.stderr


def test_what_compare_refuses(night: Night, campaign: Campaign) -> None:
    assert _compare(night, campaign).exit_code == 2
    unknown = _compare(night, campaign, "nowhere")
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        "rcarena: 'nowhere': neither a revision nor a campaign id on 'results'\n",
    )
    assert "main" not in _compare(night, campaign, "main").stdout
    assert "records no campaign" in _compare(night, campaign, "main").stderr
