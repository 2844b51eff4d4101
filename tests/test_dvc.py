"""``dvc repro`` on recorded cases: what it runs again, and what two campaigns compare to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.campaign.plan import plan_campaign
from tasks.params import load_params
from tasks.score.files import TABLES, TIMINGS_FILE
from tests.stage_code import copy_stage_code
from tests.synthetic import synthetic_case

ROOT = Path(__file__).parents[1]

Repo = pytest.importorskip("dvc.repo", reason="DVC is not in this environment").Repo
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    params = tmp_path / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["score"]["methods"] = ["random", "nsigma"]
    del document["inject"]["faults"][1:]
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    copy_stage_code(tmp_path)
    (tmp_path / "tasks" / "rca" / "__pycache__").mkdir()
    for number, plan in enumerate(plan_campaign(load_params(params))):
        kind = plan.injections[0].kind if plan.injections else None
        target = plan.injections[0].target if plan.injections else "ray-replicas-0"
        synthetic_case(tmp_path / "workspace" / "cases", plan.case_id, kind=kind, target=target, seed=number)
    run(tmp_path, "git", "init", "-q")
    commit(tmp_path, "first")
    return tmp_path


def run(directory: Path, *command: str) -> str:
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(command, cwd=directory, env={**os.environ, **identity}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(directory: Path, message: str) -> None:
    run(directory, "git", "add", "-A")
    run(directory, "git", "commit", "-q", "-m", message)


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Any]:
    """DVC as a library: it takes the working directory for the repository's."""
    with contextlib.chdir(directory), Repo() as repo:
        yield repo


def repro(directory: Path) -> set[str]:
    """The stages that ``dvc repro`` runs: the others did not change."""
    with opened(directory) as repo:
        return {stage.name for stage in repo.reproduce()}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the commands that DVC runs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PARAMS", "WORKSPACE"):
        monkeypatch.delenv(f"RCARENA_{name}", raising=False)


@pytest.mark.usefixtures("environment")
def test_only_what_changed_runs_again_and_campaigns_compare(repository: Path) -> None:
    assert repro(repository) == {"collect", "score", "remediate", "report"}
    with opened(repository) as repo:
        assert "nsigma" in json.dumps(repo.metrics.show())
    commit(repository, "campaign one")
    (repository / "tasks" / "rca" / "__pycache__" / "new.pyc").write_bytes(b"compiled")
    assert repro(repository) == set()

    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("profile: paper", "profile: llm"))
    assert repro(repository) == {"score", "remediate", "report"}
    assert (repository / "workspace/scores/metrics.json").exists()
    with opened(repository) as repo:
        assert "workspace/scores/metrics.json" in repo.metrics.diff(a_rev="HEAD")["diff"]

    config = (
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {repository.parent}/{repository.name}-remote\n"
    )
    (repository / ".dvc" / "config.local").write_text(config)
    commit(repository, "campaign two")
    with opened(repository) as repo:
        assert repo.push() > 0
    clone = repository.parent / f"{repository.name}-clone"
    run(repository, "git", "clone", "-q", str(repository), str(clone))
    (clone / ".dvc" / "config.local").write_text(config)
    with opened(clone) as repo:
        repo.pull()
    cases = [sorted(path.name for path in (each / "workspace" / "cases").iterdir()) for each in (repository, clone)]
    assert len(cases[0]) == 3
    assert cases[0] == cases[1]
    assert repro(clone) == set()


def test_every_table_of_the_score_stage_is_versioned() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outs = {Path(each).name for each in stages["score"]["outs"]}
    assert outs == {table.file for table in TABLES} | {TIMINGS_FILE}
