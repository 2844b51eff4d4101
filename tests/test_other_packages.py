"""A method and a fault kind of another package, installed as its author would (``pip install -e``), work as ours do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.command import ROOT, params_with_score
from tests.synthetic import synthetic_case

pytestmark = [pytest.mark.timeout(400)]


class Installed:
    """An environment that has ours and ``tests/acme_rca`` in it, the latter editable in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "checkout" / "acme_rca"
        shutil.copytree(ROOT / "tests" / "acme_rca", self.source, ignore=shutil.ignore_patterns("__pycache__"))
        venv.EnvBuilder().create(folder / "venv")
        self.python = folder / "venv" / "bin" / "python"
        site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        ours = [sysconfig.get_path("purelib"), str(ROOT)]
        (site / "ours.pth").write_text("\n".join(ours) + "\n")
        self._run(
            *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
            *("--disable-pip-version-check", "--editable", str(self.source)),
        )

    def rcarena(self, *arguments: str) -> str:
        return self._run("-m", "tasks.cli", *arguments)

    def _run(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([self.python, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


def test_lists_say_where_they_come_from(installed: Installed) -> None:
    text = installed.rcarena("methods")
    assert "mean_shift           metric       cheap     needs metrics" in text
    assert text.count("(from acme-rca 1.2)") == 1
    (row,) = [row for row in json.loads(installed.rcarena("methods", "--json")) if row["name"] == "mean_shift"]
    assert row["origin"] == {"distribution": "acme-rca", "version": "1.2"}
    assert row["parameters"] == {"floor": {"default": 0.0, "type": "float"}}
    faults = installed.rcarena("faults")
    assert "slow-answers (local; on replica): each answer comes later (from acme-rca 1.2)" in faults


def test_it_ranks_confined_is_kept_and_runs_again_when_its_code_changes(installed: Installed, tmp_path: Path) -> None:
    """The package lies outside of every folder of packages; the workspace, too, and that stays hidden."""
    synthetic_case(tmp_path / "workspace" / "cases", "c0", target="ray-replicas-2")
    params = params_with_score(
        tmp_path, methods=["mean_shift", "nsigma"], method_parameters={"mean_shift": {"floor": 0.01}}
    )

    def score() -> str:
        return installed.rcarena(
            "score", "--params", str(params), "--workspace", str(tmp_path / "workspace"), "--workers", "1"
        )

    first = score()
    assert "rankings were there" not in first
    assert "mean_shift" in first
    scored = json.loads((tmp_path / "workspace" / "scores" / "metrics.json").read_text())
    assert "mean_shift" in json.dumps(scored)
    assert "2 of 2 rankings were there" in score()
    shift = installed.source / "acme_rca" / "shift.py"
    shift.write_text(shift.read_text().replace("DIRECTION = 1.0", "DIRECTION = 2.0"))
    assert "1 of 2 rankings were there" in score()


def test_a_fault_kind_is_planned(installed: Installed, tmp_path: Path) -> None:
    import yaml

    params = params_with_score(tmp_path)
    document = yaml.safe_load(params.read_text())
    document["inject"]["faults"] = [{"kind": "slow-answers", "targets": ["ray-replicas-0"]}]
    params.write_text(yaml.safe_dump(document))
    plan = installed.rcarena("plan", "--params", str(params))
    assert "slow-answers" in plan
