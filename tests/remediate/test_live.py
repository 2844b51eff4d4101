"""The loop's view of a stack of real processes: the toy, in processes that find it by its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.command import ROOT
from tests.plugin_packages import install
from tests.remediate.live_toy import PARAMS, TARGET
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    site = tmp_path_factory.mktemp("site")
    install(site, "rcarena-toy", {"rcarena.backends": {"toy": "tests.backends.toy"}})
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


def command(place: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.remediate.live_toy", str(place), *words]


def rcarena(environment: dict[str, str], place: Path, *words: str) -> str:
    file = place.parent / "params.yaml"
    file.write_text(yaml.safe_dump(PARAMS))
    argv = [sys.executable, "-m", "tasks.cli", *words, "--workspace", str(place)]
    argv += ["--params", str(file)] if words[0] == "deploy" else []
    done = subprocess.run(argv, env=environment, cwd=place.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_sees_the_fault_acts_and_leaves_nothing(environment: dict[str, str], tmp_path: Path):
    place = tmp_path / "w"
    done = subprocess.run(command(place), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    said = found.pop("said")
    assert found == {
        "baseline": [True, 0],
        "recording": ["incident", 0, [], True],
        "out": True,
        "served": True,
        "residue": [],
        "unseen": False,
    }
    assert any(line.startswith(f"eject of {TARGET} at ") for line in said)
    journals = [json.loads(file.read_bytes()) for file in (place / "journal").glob("*.json")]
    states = {each["kind"]: each["state"] for each in journals}
    assert states == {"network-delay": "recovered", "eject": "recovered"}
    assert not (place / "stack").exists()


@pytest.mark.slow
def test_a_kill_leaves_no_fault_and_recover_readmits(environment: dict[str, str], tmp_path: Path):
    place = tmp_path / "w"
    with subprocess.Popen(
        command(place, "acted"), env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "acted\n"
        running.kill()
    try:
        until(lambda: not (place / "stack" / "delays" / TARGET).exists(), "the fault outlives its owner")
        assert (place / "stack" / "ejected" / TARGET).exists()
        rcarena(environment, place, "inject", "--recover")
        assert not (place / "stack" / "ejected" / TARGET).exists()
    finally:
        rcarena(environment, place, "deploy", "down")
