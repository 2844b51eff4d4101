"""``dvc repro`` on recorded cases: what it runs again, and what two campaigns compare to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.campaign.plan import plan_campaign
from tasks.params import load_params
from tests.stage_code import copy_stage_code
from tests.synthetic import synthetic_case

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not Path(sys.executable).with_name("dvc").exists(), reason="DVC is not in this environment"),
    pytest.mark.timeout(400),
]


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


def change_score(directory: Path, **changes: object) -> None:
    params = directory / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["score"] |= changes
    params.write_text(yaml.safe_dump(document, sort_keys=False))


def run(directory: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_NAME": "t",
    }
    environment |= {"GIT_COMMITTER_EMAIL": "t@t", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(directory: Path, message: str) -> None:
    run(directory, "git", "add", "-A")
    run(directory, "git", "commit", "-q", "-m", message)


def test_only_what_changed_runs_again_and_campaigns_compare(repository: Path) -> None:
    first = run(repository, "dvc", "repro")
    assert "Running stage 'score'" in first
    assert "nsigma" in run(repository, "dvc", "metrics", "show", "--md")
    commit(repository, "campaign one")
    (repository / "tasks" / "rca" / "__pycache__" / "new.pyc").write_bytes(b"compiled")
    assert "Data and pipelines are up to date" in run(repository, "dvc", "repro")

    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("profile: paper", "profile: llm"))
    second = run(repository, "dvc", "repro")
    assert "Stage 'collect' didn't change, skipping" in second
    assert "Running stage 'score'" in second
    assert (repository / "workspace/scores/metrics.json").exists()
    run(repository, "dvc", "metrics", "diff", "HEAD")

    config = (
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {repository.parent}/{repository.name}-remote\n"
    )
    (repository / ".dvc" / "config.local").write_text(config)
    commit(repository, "campaign two")
    run(repository, "dvc", "push")
    clone = repository.parent / f"{repository.name}-clone"
    run(repository, "git", "clone", "-q", str(repository), str(clone))
    (clone / ".dvc" / "config.local").write_text(config)
    run(clone, "dvc", "pull")
    cases = [sorted(path.name for path in (each / "workspace" / "cases").iterdir()) for each in (repository, clone)]
    assert len(cases[0]) == 3
    assert cases[0] == cases[1]
    assert "Data and pipelines are up to date" in run(clone, "dvc", "repro")
