"""A campaign on two stacks at once, each of them a toy (``tests/backends/toy``): killed, interrupted, with one lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.case import is_finished, read_cases, validate_case
from tasks.inject.recover import residue
from tasks.params import load_params
from tasks.workspace import Workspace
from tests.command import ROOT
from tests.plugin_packages import install
from tests.slow import first_always
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.timeout(400)

CONFIG: dict[str, Any] = {
    "campaign": {
        "name": "side-by-side",
        "seed": 3,
        "fault_free_cases": 3,
        "windows": {"warmup_s": 1, "baseline_s": 3, "fault_s": 4, "recovery_s": 1},
    },
    "deploy": {"backend": "toy", "replicas": 2, "stacks": 2},
    "load": {"arrival": "constant", "rate": 4, "output_tokens": {"mean": 4}},
    "inject": {"faults": [{"kind": "network-delay", "targets": ["ray-replicas-0", "ray-replicas-1"]}]},
    "export": {"rate_window_s": 1},
    "score": {"methods": ["random"], "profile": "paper", "bootstrap_samples": 100},
    "report": {},
}


class Campaign:
    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.workspace = Workspace(directory / "w")
        self.log = directory / "log"
        self._environment = environment
        self._params = directory / "params.yaml"
        self._params.write_text(yaml.safe_dump(CONFIG))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command as the leader of a session."""
        place = ["--params", str(self._params), "--workspace", str(self.workspace.root)]
        command = [sys.executable, "-m", "tasks.cli", *words, *place]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    def run(self, *words: str) -> tuple[int, str]:
        """Return the exit status and what was said."""
        return self.start(*words).wait(HANG_S * 2), self.log.read_text()

    def plans(self) -> tuple[CasePlan, ...]:
        return plan_campaign(load_params(self._params))

    def finished(self) -> dict[str, int]:
        """Return when each finished case was written."""
        folders = [path for path in self.workspace.cases.glob("case-*") if is_finished(path)]
        return {path.name: (path / "manifest.json").stat().st_mtime_ns for path in folders}

    def both_inject(self) -> bool:
        return all(any(self.workspace.on(index).journal.glob("*.json")) for index in (0, 1))

    def assert_whole(self) -> None:
        """Check that each case is recorded once and that nothing is left on any stack."""
        cases = list(read_cases(self.workspace.cases))
        assert {case.record.case_id for case in cases} == {plan.case_id for plan in self.plans()}
        assert [problem for case in cases for problem in validate_case(case.path)] == []
        assert {case.record.stack.index for case in cases} <= {0, 1}
        for place in self.workspace.on_disk():
            assert residue(place) == []
            assert not place.stack.exists()
            assert not list((place.live / "runs").glob("*/*"))


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Campaign]:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "rcarena-toy", {"rcarena.backends": {"toy": "tests.backends.toy"}})
    monkeypatch.syspath_prepend(str(site))
    running = Campaign(tmp_path, os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])})
    yield running
    running.run("deploy", "down")


@pytest.mark.parametrize("killed", first_always(["every process", "the campaign"]))
def test_killed_in_the_middle_and_run_again_no_case_is_lost_and_none_is_recorded_twice(
    campaign: Campaign, killed: str
) -> None:
    first = campaign.start("collect")
    until(lambda: campaign.finished() and campaign.both_inject())
    if killed == "every process":
        os.killpg(first.pid, signal.SIGKILL)
    else:
        first.kill()
    first.wait()
    before = campaign.finished()
    assert 0 < len(before) < 5

    status, said = campaign.run("collect")
    assert status == 0, said
    after = campaign.finished()
    assert {name: after[name] for name in before} == before
    assert "stack 0: " in said
    assert "stack 1: " in said
    campaign.assert_whole()
    assert {case.record.stack.index for case in read_cases(campaign.workspace.cases)} == {0, 1}


def test_ctrl_c_takes_every_stack_down(campaign: Campaign) -> None:
    first = campaign.start("collect")
    until(campaign.both_inject)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(HANG_S) == 1
    said = campaign.log.read_text()
    assert "interrupted; run the same command again" in said
    for place in campaign.workspace.on_disk():
        assert residue(place) == [], said
        assert not place.stack.exists()


def test_the_others_go_on_when_a_stack_does_not_come_up(campaign: Campaign) -> None:
    broken = campaign.workspace.on(1)
    broken.live.mkdir(parents=True)
    broken.stack.write_text("no folder")
    status, said = campaign.run("collect")
    assert status == 0, said
    assert "no case is missing, but a stack was lost: stack 1: " in said
    broken.stack.unlink()
    campaign.assert_whole()
    assert {case.record.stack.index for case in read_cases(campaign.workspace.cases)} == {0}


def test_the_case_of_a_stack_whose_process_dies_goes_to_another(campaign: Campaign) -> None:
    running = campaign.start("collect")
    until(campaign.both_inject)
    (worker,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if "collect\0--stack\x001\0" in path.read_text() and str(campaign.workspace.root) in path.read_text()
    ]
    os.kill(worker, signal.SIGKILL)
    assert running.wait(HANG_S * 2) == 0, campaign.log.read_text()
    said = campaign.log.read_text()
    assert "a stack was lost: stack 1: exit status -9" in said
    status, said = campaign.run("deploy", "down")
    assert status == 0, said
    campaign.assert_whole()


def test_the_number_of_stacks_changes_no_case(campaign: Campaign) -> None:
    """How many stacks record a campaign says nothing about its telemetry."""
    alone = load_params(campaign._params)
    alone = alone.model_copy(update={"deploy": alone.deploy.model_copy(update={"stacks": 1})})
    assert plan_campaign(alone) == campaign.plans()
