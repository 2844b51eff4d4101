"""Retries, concurrency, kills and failures of a recording: exactly one commit per campaign, data first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.params import load_params
from tasks.record.errors import RecordError
from tasks.system.file_lock import FileLock
from tasks.workspace import Workspace
from tests.record.campaigns import ROOT, Campaign, git, params_text
from tests.record.conftest import copied
from tests.record.pretend_dvc import pushed

pytestmark = [
    pytest.mark.skipif(not Path(sys.executable).with_name("dvc").exists(), reason="DVC is not in this environment"),
    pytest.mark.usefixtures("pretend_dvc"),
    pytest.mark.timeout(400),  # a busy machine
]


def commits(repository: Path, branch: str = "results") -> list[str]:
    if not git(repository, "branch", "--list", branch):
        return []
    return git(
        repository, "log", "--format=%(trailers:key=RCArena-Campaign,valueonly,separator=)", f"main..{branch}"
    ).split()


def rescored(campaign: Campaign, directory: Path) -> Campaign:
    """Another campaign: the same cases, to be scored with another seed."""
    text = params_text(seed=7)
    directory.mkdir()
    place = copied(campaign, directory).workspace
    (directory / "params.yaml").write_text(text)
    return Campaign(place, text, load_params(directory / "params.yaml"))


def test_killed_before_any_step_the_next_run_makes_exactly_one_commit(
    repository: Path, campaign: Campaign, pretend_dvc: Path
) -> None:
    command = [sys.executable, "-m", "tests.record.killing", str(repository), str(campaign.workspace.root.parent)]
    done = subprocess.run([*command, str(pretend_dvc)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    *killed, last = [line.split() for line in done.stdout.splitlines()]
    assert {"read-tree", "dvc-commit", "dvc-reproduce", "dvc-push", "commit-tree", "update-ref"} <= {
        k[0] for k in killed
    }
    assert all(line[1:] == ["-9", "0"] for line in killed), done.stdout
    assert last == ["0", "1"]
    assert not campaign.record(repository).new


def test_a_remote_that_is_down_twice(repository: Path, campaign: Campaign, pretend_dvc: Path) -> None:
    pretend_dvc.write_text("down")
    before = sorted(campaign.workspace.root.iterdir())
    for _ in range(2):
        with pytest.raises(RecordError, match="the remote is down"):
            campaign.record(repository)
        assert commits(repository) == []
        left = {path.name for path in campaign.workspace.root.iterdir()} - {path.name for path in before}
        assert left <= {".record.lock", ".campaign.lock", ".scores.lock"}
    pretend_dvc.unlink()
    recorded = campaign.record(repository)
    assert recorded.new
    assert commits(repository) == [recorded.campaign_id]
    assert pushed(git(repository, "show", "results:dvc.lock"), pretend_dvc)


def test_runs_at_the_same_time(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    other = rescored(campaign, tmp_path / "other")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda each: each.record(repository), [campaign, other, campaign, other]))
    assert sorted(result.new for result in results) == [False, False, True, True]
    assert sorted(commits(repository)) == sorted({result.campaign_id for result in results})


def test_two_clones_publish_to_one_remote(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(origin))
    clones = []
    for name in ("one", "two"):
        git(tmp_path, "clone", "-q", str(origin), str(tmp_path / name))
        shutil.copy(repository / ".dvc" / "config.local", tmp_path / name / ".dvc" / "config.local")
        clones.append(tmp_path / name)
    twin = copied(campaign, tmp_path / "twin")
    other = rescored(campaign, tmp_path / "other")
    with ThreadPoolExecutor(2) as pool:
        jobs = [(campaign, clones[0]), (twin, clones[1])]
        results = list(pool.map(lambda job: job[0].record(job[1], git_remote="origin"), jobs))
    assert sorted(result.new for result in results) == [False, True]
    third = other.record(clones[1], git_remote="origin")
    assert commits(origin) == [third.campaign_id, results[0].campaign_id]
    assert not campaign.record(clones[0], git_remote="origin").new
    assert commits(clones[0]) == commits(origin)


def test_a_lock_that_a_killed_git_left(repository: Path, campaign: Campaign) -> None:
    lock = repository / ".git" / "refs" / "heads" / "results.lock"
    lock.touch()
    os.utime(lock, (time.time() - 60, time.time() - 60))
    assert campaign.record(repository).new


def test_data_that_was_kept_here_is_pushed_later(repository: Path, campaign: Campaign, pretend_dvc: Path) -> None:
    first = campaign.record(repository, push=False)
    assert not first.pushed
    assert not pretend_dvc.exists()
    pretend_dvc.mkdir()
    with pytest.raises(FileNotFoundError):  # the stand-in has no cache: it shows that the push was tried
        campaign.record(repository)
    assert commits(repository) == [first.campaign_id]


def test_other_scores_of_a_recorded_campaign(repository: Path, campaign: Campaign) -> None:
    first = campaign.record(repository)
    metrics = campaign.workspace.scores / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"failures": 0', '"failures": 1'))
    lines: list[str] = []
    again = campaign.record(repository, lines)
    assert (again.commit, again.new, again.differs) == (first.commit, False, True)
    assert any("--rescored" in line for line in lines)
    second = campaign.record(repository, rescored=True)
    assert second.new
    assert commits(repository) == [second.campaign_id, first.campaign_id]
    assert second.campaign_id.startswith(f"{first.campaign_id}-")
    assert not campaign.record(repository, rescored=True).new


def test_missing_cases_are_recorded_only_on_request(repository: Path, campaign: Campaign) -> None:
    gone = sorted(campaign.workspace.cases.iterdir())[0]
    shutil.rmtree(gone)
    with pytest.raises(RecordError, match=rf"1 of 7 cases are missing: .*{gone.name}"):
        campaign.record(repository)
    recorded = campaign.record(repository, allow_missing=True)
    assert (recorded.cases, recorded.missing) == (6, 1)
    assert "RCArena-Cases: 6 of 7" in git(repository, "log", "-1", "--format=%B", "results")


def test_what_cannot_be_recorded(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    def refused(match: str, of: Campaign = campaign, **options: object) -> None:
        with pytest.raises(RecordError, match=match):
            of.record(options.pop("where", repository), **options)  # type: ignore[arg-type]
        assert commits(repository) == []

    (tmp_path / "params.yaml").write_text(params_text(("ray-replicas-1",)))
    others = Campaign(campaign.workspace, params_text(("ray-replicas-1",)), load_params(tmp_path / "params.yaml"))
    refused("the parameters do not ask for them", of=others, allow_missing=True)
    refused("no finished case", of=Campaign(Workspace(tmp_path / "empty"), campaign.text, campaign.params))
    refused("'main' is checked out", branch="main")
    refused("no name for a branch", branch="a..b")
    refused("no remote 'nowhere'", git_remote="nowhere")
    refused("cannot be used", where=tmp_path)
    with FileLock(campaign.workspace.root / ".campaign.lock", AssertionError()):
        refused("being collected")
    settings = repository / ".dvc" / "config.local"
    settings.rename(tmp_path / "aside")
    refused(r"no default remote .*\(--no-push\)")
    (tmp_path / "aside").rename(settings)
    case = sorted(campaign.workspace.cases.iterdir())[0]
    (case / "logs.parquet").write_bytes(b"damaged")
    refused(f"{case.name}: logs.parquet: differs from manifest.json")


def test_code_that_is_not_the_recorded_commit_is_named(repository: Path, campaign: Campaign) -> None:
    (repository / "tasks" / "rca" / "view.py").write_text("# another version\n")
    git(repository, "commit", "-qam", "another version")
    campaign.record(repository)
    assert "differs from" in git(repository, "log", "-1", "--format=%B", "results")
    assert "tasks/rca/view.py" in git(repository, "log", "-1", "--format=%B", "results")


def test_a_relative_remote_means_the_same_in_the_copy(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    from tasks.record.dvc_cli import read_settings

    (repository / ".dvc" / "config.local").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../elsewhere\n"
    )
    settings = read_settings(repository)
    settings.write(tmp_path / ".dvc")
    text = (tmp_path / ".dvc" / "config.local").read_text()
    assert f"url = {tmp_path / 'elsewhere'}" in text
    assert f"dir = {repository / '.dvc' / 'cache'}" in text
    assert (tmp_path / ".dvc" / "config.local").stat().st_mode & 0o077 == 0
