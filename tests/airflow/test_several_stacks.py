"""A campaign on two stacks by real Airflow: real commands in every pod, with the rights of its service account, on an
emulated cluster that enforces the rendered roles (``tests.airflow.emulated.world``)."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.client import ROOT, LocalAirflow, free_port
from tests.airflow.test_end_to_end import RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as marks
from tests.waiting import until

pytestmark = [*marks, pytest.mark.slow]

PYTHON = ROOT / ".venv" / "bin" / "python"
NAME = "two-stacks"


@dataclass(frozen=True)
class World:
    """The emulated cluster and the Airflow whose pods act on it."""

    airflow: LocalAirflow
    url: str

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url, timeout=30) as answer:
            return json.load(answer)

    @property
    def workspace(self) -> Path:
        return self.airflow.workspaces / NAME

    def finished(self) -> dict[str, int]:
        """When each finished case was written."""
        files = self.workspace.glob("cases/case-*/manifest.json")
        return {file.parent.name: file.stat().st_mtime_ns for file in files}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    directory = tmp_path / "world"
    directory.mkdir()
    command = [PYTHON, "-m", "tests.airflow.emulated.world", directory]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "world.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    settings = {
        "RCARENA_POD_PATH": str(ROOT / "tests" / "airflow" / "emulated" / "bin"),
        "EMULATED_WORLD": str(directory),
        "RCARENA_NAMESPACE": "rcarena-0",
        "RCARENA_PARAMS_FILE": str(directory / "params.yaml"),
        "RCARENA_STACKS": "2",
    }
    airflow = LocalAirflow(tmp_path / "airflow", free_port(), settings)
    try:
        ready = directory / "ready"
        until(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), (tmp_path / "world.log").read_text()
        airflow.start()
        airflow.unpause("campaign", "case")
        yield World(airflow, ready.read_text())
    finally:
        airflow.stop()
        process.terminate()
        process.wait()


def test_a_campaign_whose_scheduler_is_killed_in_the_middle_loses_no_case(world: World) -> None:
    """It is killed with its workers while both stacks have a case and one a fault. A campaign that fails by that is
    started again. No case is lost, none recorded twice, no request refused, nothing left."""
    airflow = world.airflow
    run = airflow.trigger("campaign", name=NAME, record=False)

    def in_the_middle() -> bool:
        assert airflow.run_state("campaign", run) in ("queued", "running"), airflow.states("campaign", run)
        cases = list(airflow.runs("case").values())
        return cases.count("running") == 2 and world.state()["faults"] != []

    airflow.until(in_the_middle, RUN_TIMEOUT_S, "no two cases run at once with a fault")
    assert world.state()["stacks"] == ["rcarena-0", "rcarena-1"]
    before = world.finished()
    airflow.restart_scheduler()
    state = airflow.finish("campaign", run, RUN_TIMEOUT_S)
    if state == "failed":
        run = airflow.trigger("campaign", name=NAME, record=False)
        state = airflow.finish("campaign", run, RUN_TIMEOUT_S)
    assert state == "success", (airflow.states("campaign", run), airflow.runs("case"))

    recorded = [json.loads(file.read_text()) for file in sorted(world.workspace.glob("cases/case-*/case.json"))]
    assert sorted(each["case_id"] for each in recorded) == planned(world.workspace)
    assert {each["stack"]["index"] for each in recorded} == {0, 1}
    after = world.finished()
    assert {name: after[name] for name in before} == before
    assert not (world.workspace / "superseded").exists()
    assert world.state() == {"refused": [], "faults": [], "stacks": []}
    assert airflow.pods() == []
    assert (world.workspace / "report" / "index.html").exists()


def planned(workspace: Path) -> list[str]:
    command = [PYTHON, "-m", "tasks.cli", "plan", "--json", "--params", workspace / "params.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(each["case_id"] for each in json.loads(done.stdout))
